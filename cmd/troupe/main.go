// troupe is the container runtime of a Kubernetes node: the daemon that serves
// CRI, and the commands an operator looks at it with.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/troupe-run/troupe/backends/images"
	"github.com/troupe-run/troupe/cmd/troupe/config"
	"golang.org/x/sys/unix"
)

// Exit codes.
const (
	exitFailed = 1 // it did not work, or the node is not ready
	// The command line or the configuration is wrong: trying again does not mend
	// it, and systemd is told not to. EX_CONFIG of sysexits.h, and not 2: with
	// that the Go runtime ends a program that panics, or gets the watchdog's SIGABRT.
	exitUsage = 78
)

func main() {
	// First of all: the storage library runs this program again to unpack a
	// layer inside a chroot, and takes over here when it did.
	if images.Init() {
		return
	}
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with everything passed in, for tests.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot(stdout, stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" {
			fmt.Fprintln(stderr, "troupe: "+line)
		}
	}
	var bad *config.Error
	var usage usageError
	if errors.As(err, &bad) || errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

func newRoot(stdout, stderr io.Writer) *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:   "troupe",
		Short: "The container runtime of a Kubernetes node",
		Long: "troupe without a command is the daemon: it serves Kubernetes' Container Runtime\n" +
			"Interface on a socket. The commands look at a daemon that runs.",
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          o.daemon(stderr),
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())}
	})
	flags := root.PersistentFlags()
	flags.StringVar(&o.source.File, "config", "", "configuration in crio.conf(5) format (default "+config.DefaultFile+", if there)")
	flags.StringVar(&o.source.Dir, "config-dir", "", "directory of drop-ins (default the file's name with .d)")
	flags.StringArrayVar(&o.source.Set, "set", nil, "set one option on top of the files: --set crio.runtime.log_level=debug")
	o.daemonFlags(root)
	root.AddCommand(daemonCommand(o, stderr), monitorCommand(o, stderr), configCommand(o), versionCommand(),
		statusCommand(o), treeCommand(o), timelineCommand(o), imagesCommand(o), checkCommand(o), wipeCommand(o, stderr), failpointsCommand())
	checkArguments(root)
	return root
}

// options are the flags every command has, and the daemon's own.
type options struct {
	source     config.Source
	profileCPU string
}

func (o *options) daemonFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.profileCPU, "profile-cpu", "", "write a CPU profile of the daemon to this file, whole when it has ended")
}

func (o *options) daemon(stderr io.Writer) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) (err error) {
		stop, err := profileCPU(o.profileCPU)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
		return runDaemon(cmd.Context(), o.source, stderr)
	}
}

// checkArguments makes a wrong number of arguments a usage error everywhere.
func checkArguments(cmd *cobra.Command) {
	check := cmd.Args
	if check == nil {
		check = cobra.NoArgs
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())}
		}
		return nil
	}
	for _, sub := range cmd.Commands() {
		checkArguments(sub)
	}
}

func daemonCommand(o *options, stderr io.Writer) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Run the daemon (the same as no command)",
		RunE:  o.daemon(stderr),
	}
	o.daemonFlags(cmd)
	return cmd
}

// monitorCommand becomes troupe-monitor with what is configured, so that its
// systemd unit needs no second configuration.
func monitorCommand(o *options, stderr io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "monitor",
		Short: "Become troupe-monitor, the parent of all containers (for its systemd unit)",
		RunE: func(*cobra.Command, []string) error {
			loaded, err := config.Load(o.source)
			if err != nil {
				return err
			}
			// The daemon may have started one, when the unit's was killed: the
			// node has its monitor, and the unit must not count as failed.
			if socket := filepath.Join(monitorDir(loaded.Config), "monitor.sock"); reachable(socket) == nil {
				fmt.Fprintln(stderr, "troupe: a monitor serves already on "+socket)
				return nil
			}
			binary, err := loaded.FindMonitor()
			if err != nil {
				return &config.Error{Err: err}
			}
			args := []string{binary, "--dir", monitorDir(loaded.Config), "--cgroup-manager", loaded.UseCgroupManager()}
			return fmt.Errorf("monitor: run %s: %w", binary, unix.Exec(binary, args, os.Environ()))
		},
	}
}

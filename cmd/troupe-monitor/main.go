//go:build linux && cgo

// Command troupe-monitor is the parent of every container process of a node.
// The daemon starts it, talks to it over a socket (backends/monitor/wire), and
// may die and come back: the monitor and its containers stay.
//
// It keeps to little on purpose. libcontainer re-executes this very binary as
// the init of each container and of each exec, so every package linked in here
// is paid for by every start.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	runtimedebug "runtime/debug"
	"strconv"
	"strings"

	_ "github.com/opencontainers/cgroups/devices" // lets libcontainer set device rules
	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // the C part of a container's init
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/sirupsen/logrus"
	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// init is the entry point of the processes that libcontainer makes out of this
// binary, after nsenter's C code has put them into their namespaces, and of the
// compiler of seccomp profiles. It does not return there.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		takeProgram(readyFd)
		libcontainer.Init()
	}
	if len(os.Args) > 2 && os.Args[1] == withoutUnified {
		os.Exit(runWithoutUnified(os.Args[2:]))
	}
	if len(os.Args) == 6 && os.Args[1] == dumpCommand {
		os.Exit(runDump(os.Args[2], os.Args[3], os.Args[4], os.Args[5]))
	}
	if len(os.Args) == 3 && os.Args[1] == restoreCommand {
		os.Exit(runRestore(os.Args[2]))
	}
	if len(os.Args) == 2 && os.Args[1] == compileCommand {
		os.Exit(compileProfile())
	}
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == upgradeCommand {
		os.Exit(runUpgrade(os.Args[2:], os.Stderr))
	}
	if len(os.Args) == 2 && os.Args[1] == "failpoints" {
		os.Exit(printPoints(os.Stdout))
	}
	dir := flag.String("dir", "", "directory of the socket, the lock and all state (required)")
	manager := flag.String("cgroup-manager", "cgroupfs", "cgroupfs or systemd")
	debug := flag.Bool("debug", false, "log more")
	flag.Parse()
	level := slog.LevelInfo
	if *debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	logrus.SetLevel(logrus.WarnLevel) // libcontainer's own words go to the same file
	if err := run(*dir, *manager, log); err != nil {
		log.Error("troupe-monitor cannot go on", "err", err)
		if errors.Is(err, errServed) {
			os.Exit(wire.ExitServed)
		}
		os.Exit(1)
	}
}

func run(dir, manager string, log *slog.Logger) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("--dir %q: give an absolute path", dir)
	}
	if manager != "cgroupfs" && manager != "systemd" {
		return fmt.Errorf("--cgroup-manager %q: give cgroupfs or systemd", manager)
	}
	if !seccomp.Enabled {
		return errors.New("this binary was built without seccomp (-tags seccomp): it would run no confined container")
	}
	// libcontainer passes this one on to the inits, for which a thread is enough;
	// the number of our own is settled already. Nothing else that is started
	// inherits our environment.
	if err := os.Setenv("GOMAXPROCS", "1"); err != nil {
		return err
	}
	// Most of what it holds is containers' configurations, and it makes little
	// garbage: half as much again as what lives, not as much.
	if os.Getenv("GOGC") == "" {
		runtimedebug.SetGCPercent(50)
	}
	p := paths{dir: filepath.Clean(dir)}
	if err := p.make(); err != nil {
		return err
	}
	keeper, err := joinKeeper(log)
	if err != nil {
		return err
	}
	held, err := keeper.list()
	if err != nil {
		return fmt.Errorf("ask the keeper for what it holds: %w", err)
	}
	own := held[ownEntry]
	delete(held, ownEntry)
	if own == nil {
		own = &kept{}
	}
	lock := own.take(slotLock)
	if lock == nil {
		if lock, err = p.lock(); err != nil {
			return err
		}
	}
	oomScore, err := protect(log)
	if err != nil {
		return err
	}
	if err := writePause(p.pauseRoot()); err != nil {
		return err
	}
	loop, err := newLoop(log)
	if err != nil {
		return err
	}
	m := newMonitor(p, manager == "systemd", oomScore, loop, log)
	m.keeper, m.lockFile, keeper.replace = keeper, lock, m.replaceKeeper
	m.holdSocket(own.take(slotListener))
	m.keepOwn()
	go loop.run()
	go m.sweepOrphans()
	m.load(held)
	server, err := listen(p.socket(), m, log)
	if err != nil {
		return err
	}
	m.keepOwn()
	failpoint.Hit("keep/serving/before")
	keeper.serving()
	failpoint.Hit("keep/serving/after")
	go server.accept()
	log.Info("serving", "dir", dir, "pid", os.Getpid(), "cgroupManager", manager, "containers", m.count())
	m.waitForEnd()
	if m.makesRoom {
		return nil // the socket stays: clients wait in its queue
	}
	keeper.ending()
	server.close()
	return nil
}

// protect makes this process fit to be everybody's parent: orphans of
// containers come to it, the kernel's OOM killer spares it, and it has a
// session of its own. It gives the oom_score_adj that containers get when
// their spec names none, because they would inherit ours.
func protect(log *slog.Logger) (int, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("become the child subreaper: %w", err)
	}
	_, _ = unix.Setsid() // refused when the client has done it already
	unix.Umask(0o022)
	// A descriptor of a dead log must not take the monitor along. It is caught
	// and not ignored: a runtime would hand the ignoring on to its containers.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	if err := heedSignals(); err != nil {
		return 0, err
	}
	const file = "/proc/self/oom_score_adj"
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("read the OOM score: %w", err)
	}
	before, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, fmt.Errorf("read the OOM score: %w", err)
	}
	if err := os.WriteFile(file, []byte("-999"), 0); err != nil {
		log.Warn("the OOM killer may choose the monitor: lowering oom_score_adj was refused (CAP_SYS_RESOURCE is needed)", "is", before, "err", err)
	}
	return max(before, 0), nil
}

// waitForEnd returns when the monitor may go: it was asked to, and it has no
// containers. A signal to a monitor with containers is logged and nothing else:
// its end would be theirs.
func (m *monitor) waitForEnd() {
	signals := make(chan os.Signal, 4)
	for _, sig := range ours {
		signal.Notify(signals, sig)
	}
	for {
		select {
		case <-m.quit:
			m.log.Info("asked to end", "containers", m.count())
			return
		case s := <-signals:
			switch {
			case s == unix.SIGHUP:
			case m.tryQuit():
				m.log.Info("ending", "signal", s)
				return
			default:
				m.log.Warn("signal ignored: there are containers, remove them first", "signal", s, "containers", m.count())
			}
		}
	}
}

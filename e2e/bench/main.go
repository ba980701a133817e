// Command bench measures Troupe, and beside it containerd (and conmon), in one
// run: same machine, same tmpfs, same CNI network, same image, same driver
// (troupe-sim load). Its first argument says what:
//
//	pods     calls, bursts, lists, memory, idle CPU with pods present
//	density  whether they cost the same with 1,000 pods as with 10
//	logs     how fast containers can write, and what that costs
//	restart  how soon a daemon that was killed answers for its pods
//
// Each prints its figures and targets, and writes them to bench/.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/troupe-run/troupe/cmd/troupe-sim/load"
	"github.com/troupe-run/troupe/e2e/harness"
)

type options struct {
	present  numbers
	rounds   int
	lives    int
	lists    int
	burst    int
	callers  int
	idle     time.Duration
	megabyte int
	pods     int
	only     string
	profile  string
	out      string
}

// numbers is a flag: 1,10,100.
type numbers []int

func (n *numbers) String() string { return fmt.Sprint(*n) }

// Set implements flag.Value.
func (n *numbers) Set(text string) error {
	*n = nil
	for _, field := range splitList(text) {
		var v int
		if _, err := fmt.Sscan(field, &v); err != nil || v < 0 {
			return fmt.Errorf("%q is no number of pods", field)
		}
		*n = append(*n, v)
	}
	slices.Sort(*n)
	return nil
}

var kinds = map[string]struct {
	defaults options
	measure  func(context.Context, options) error
}{
	"pods":    {options{rounds: 3, present: numbers{10, 100}, lives: 30, lists: 20, burst: 60, callers: 8, idle: 10 * time.Second}, pods},
	"density": {options{present: numbers{10, 100, 500, 1000}, lives: 30, lists: 10, callers: 4}, density},
	"logs":    {options{megabyte: 1000}, logs},
	"restart": {options{pods: 300}, restart},
}

func main() {
	if len(os.Args) < 2 || kinds[os.Args[1]].measure == nil {
		fmt.Fprintln(os.Stderr, "bench: say what to measure: pods, density, logs or restart")
		os.Exit(2)
	}
	kind := kinds[os.Args[1]]
	o := kind.defaults
	flags := flag.NewFlagSet("bench "+os.Args[1], flag.ExitOnError)
	flags.Var(&o.present, "present", "numbers of pods that are there while it is measured")
	flags.IntVar(&o.rounds, "rounds", o.rounds, "how often the contenders take turns; medians count")
	flags.IntVar(&o.lives, "lives", o.lives, "pods to run through a whole life, one at a time")
	flags.IntVar(&o.lists, "lists", o.lists, "calls of each list")
	flags.IntVar(&o.burst, "burst", o.burst, "pods to start at once")
	flags.IntVar(&o.callers, "callers", o.callers, "how many callers that is")
	flags.DurationVar(&o.idle, "idle", o.idle, "how long a runtime with nothing to do is watched")
	flags.IntVar(&o.megabyte, "megabytes", o.megabyte, "what a container writes")
	flags.IntVar(&o.pods, "pods", o.pods, "pods that are there when the daemon is killed")
	flags.StringVar(&o.only, "only", "", "only this contender; then nothing is written to the directory")
	flags.StringVar(&o.profile, "profile", "", "write a CPU profile of Troupe's daemon to this file (and run slower for it)")
	flags.StringVar(&o.out, "out", "bench", "directory for the results, from the repository's root")
	_ = flags.Parse(os.Args[2:]) // it exits itself
	harness.Enter()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := kind.measure(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// contender is a runtime under measurement.
type contender struct {
	name      string
	processes []string // binaries that are the runtime's own, pod by pod or not
	start     func(context.Context, *stage) (socket string, err error)
	handler   string // of its pods; empty: its default
	asked     bool   // it takes part only when -only names it
}

const (
	troupe     = "troupe"
	withCrun   = "troupe-crun" // Troupe with crun in libcontainer's place
	containerd = "containerd"
)

var contenders = []contender{
	{name: troupe, processes: []string{"troupe", "troupe-monitor", "troupe-keeper"}, start: startTroupe},
	{name: withCrun, processes: []string{"troupe", "troupe-monitor", "troupe-keeper"}, start: startTroupe, handler: "crun", asked: true},
	{name: containerd, processes: []string{"containerd", "containerd-shim-runc-v2"}, start: startContainerd},
}

// each gives each contender a lab of its own, one after the other, so that
// neither runs while the other is measured.
func (o options) each(ctx context.Context, do func(context.Context, *stage, contender) error) error {
	for _, c := range contenders {
		if o.only != "" && o.only != c.name || c.asked && o.only == "" {
			continue
		}
		if err := withStage(ctx, o, func(s *stage) error { return do(ctx, s, c) }); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// stage is what is the same for every contender.
type stage struct {
	options
	lab      *harness.Lab
	network  *harness.Network
	registry *harness.Registry
	image    string
	daemon   *harness.Daemon // Troupe's
	peer     *harness.Containerd
}

func withStage(ctx context.Context, o options, do func(*stage) error) (err error) {
	lab, err := harness.NewLab()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	s := &stage{options: o, lab: lab}
	if s.network, err = lab.NewNetwork(); err != nil {
		return err
	}
	// Bridge and host-local alone, as in issue 7: iptables and portmap, executed
	// for each pod whoever its runtime is, are dearer than all the rest.
	s.network.NoPortmap, s.network.NoMasq = true, true
	if err := s.network.Configure(); err != nil {
		return err
	}
	if s.registry, err = lab.StartRegistry(ctx, harness.RegistryOptions{}); err != nil {
		return err
	}
	image, err := harness.BuildImage(harness.ImageSpec{
		Cmd: []string{"sleep", "100000"}, Files: map[string]string{linesFile: manyLines()},
	})
	if err != nil {
		return err
	}
	if s.image, err = s.registry.Push(ctx, "bench/busybox", "1", image); err != nil {
		return err
	}
	return do(s)
}

func startTroupe(ctx context.Context, s *stage) (_ string, err error) {
	s.daemon, err = s.lab.NewDaemon(harness.DaemonOptions{
		Network: s.network, Insecure: []string{s.registry.Host}, LogLevel: "info", // as in production
		Extra: "[crio.runtime.runtimes.crun]\n",
		Args:  s.profiling(),
	})
	if err != nil {
		return "", err
	}
	return s.daemon.Socket, s.daemon.Start(ctx)
}

func startContainerd(ctx context.Context, s *stage) (_ string, err error) {
	s.peer, err = s.lab.StartContainerd(ctx, harness.ContainerdOptions{Network: s.network, Registry: s.registry.Host, Sandbox: s.image})
	if err != nil {
		return "", err
	}
	return s.peer.Socket, nil
}

// begin starts a contender. It gives what the driver is told whatever is
// measured.
func (o options) begin(ctx context.Context, s *stage, c contender) (load.Options, error) {
	socket, err := c.start(ctx, s)
	if err != nil {
		return load.Options{}, err
	}
	dir, err := s.lab.Mkdir("logs")
	return load.Options{
		Socket: socket, Image: s.image, Handler: c.handler, CgroupParent: "/" + s.lab.Name, LogDir: dir, Processes: c.processes,
		Present: o.present, Lives: o.lives, Execs: 3, Lists: o.lists, Callers: o.callers, Idle: o.idle,
		Progress: func(what string) { fmt.Fprintf(os.Stderr, "bench: %s: %s\n", c.name, what) },
	}, err
}

// medianOf is of one figure of each.
func medianOf[T any](all []T, figure func(T) float64) float64 {
	values := make([]float64, len(all))
	for i, one := range all {
		values[i] = figure(one)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func (o options) profiling() []string {
	if o.profile == "" {
		return nil
	}
	return []string{"--profile-cpu", o.profile}
}

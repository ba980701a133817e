// Command reboots proves what a node holds after it went down with pods on it:
// Debian with systemd and Troupe as packaged runs pods in all states, and at
// some moment is rebooted, reset, or loses its power, with a disk that then
// has only what was flushed, or also some or all of the rest. After each boot
// the old pods must be there with their true last state, addresses, ports and
// names must be free, and when all was removed the node must be empty. The
// last line has the sums; the exit status is 1 if anything was lost, leaked or
// invented. Run it by `make vm-power`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
)

type options struct {
	rounds             int
	seed               uint64
	cache, kernel, out string
	limit              time.Duration
	verbose            bool
}

func main() {
	if os.Args[len(os.Args)-1] == "guest" {
		beAgent()
	}
	o := &options{}
	flag.IntVar(&o.rounds, "rounds", 20, "how often the machine goes down")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().Unix()), "round n is drawn from seed+n")
	flag.StringVar(&o.cache, "cache", "", "folder of the guest made by shared/vm/build")
	flag.StringVar(&o.kernel, "kernel", "stable", "the guest's kernel: stable or new")
	flag.StringVar(&o.out, "out", ".", "folder for the guest's root and for the disks of failures")
	flag.DurationVar(&o.limit, "limit", 8*time.Minute, "how long a boot may take from power on to its end")
	flag.BoolVar(&o.verbose, "v", false, "print what the machine tells")
	flag.Parse()
	harness.Enter()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	t := &tally{}
	err := goDown(ctx, o, t)
	stop()
	if err != nil {
		fmt.Printf("FAIL %v\n", err)
	}
	fmt.Printf("after the cuts: %d pods and %d containers were listed again, %d exit codes kept, %d of processes nobody saw end shown as unknown; %d records torn in their last moment and put aside; %d pods shown ready at the first answer\n",
		t.pods, t.containers, t.codes, t.unknown, t.aside, t.early)
	fmt.Printf("vm-power: %d cuts and reboots, %d lost, %d leaked, %d invented, %d failed\n", t.ends, t.lost, t.leaked, t.invented, t.failed)
	if err != nil || t.lost+t.leaked+t.invented+t.failed > 0 || t.ends < o.rounds {
		os.Exit(1)
	}
}

// tally has the sums.
type tally struct {
	ends, lost, leaked, invented, failed           int
	pods, containers, codes, unknown, aside, early int
}

func goDown(ctx context.Context, o *options, t *tally) (err error) {
	lab, err := harness.NewLab()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	s := &series{options: o, tally: t, world: newWorld()}
	if err := s.publish(ctx, lab); err != nil {
		return err
	}
	defer os.Remove(rootPath(o))
	if s.machine, err = newMachine(lab, o, s.registry); err != nil {
		return err
	}
	return s.run(ctx)
}

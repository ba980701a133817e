// Command soak lets a node live under pods that come and go while its daemon
// and monitor are killed (SIGKILL) every few seconds, and then looks whether
// anything was lost, invented or left behind. `make soak` runs it, SOAK=30m
// long unless told otherwise.
//
// Its phases, all with the same load (-pods lives at a time: pods on a real CNI
// network, containers of several images that number every line they print,
// execs, log rotations, pulls and removals of images):
//
//	warm-up  nobody is killed; then all is removed and the processes are measured
//	storm    kills, at moments drawn from -seed
//	calm     as long as the warm-up, nobody is killed; all is removed and the
//	         processes are measured again
//
// The warm-up and the calm have the same history behind a measurement, so that
// the two can be compared: a daemon that has just started has other figures
// than one that has worked.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
)

type options struct {
	length  time.Duration
	seed    uint64
	pods    int
	monitor bool
	bytes   bool
}

func main() {
	var o options
	flag.DurationVar(&o.length, "for", 30*time.Minute, "how long, all phases together; they last longer by what draining takes")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "what is drawn is drawn from it")
	flag.IntVar(&o.pods, "pods", 50, "pods at a time")
	flag.BoolVar(&o.monitor, "monitor", true, "kill the monitor too")
	flag.BoolVar(&o.bytes, "bytes", true, "also count bytes and exits of containers whose monitor was killed")
	flag.Parse()
	harness.Enter()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	good, err := soak(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
	}
	if err != nil || !good {
		os.Exit(1)
	}
}

// soak is the whole run; good says that the last line has only zeros.
func soak(ctx context.Context, o options) (good bool, err error) {
	fmt.Printf("soak: %s, %d pods at a time, seed %d\n", o.length, o.pods, o.seed)
	n, err := newNode(ctx, o)
	if err != nil {
		return false, err
	}
	defer func() {
		n.lab.Abandon = !good
		if left := n.lab.Close(); left != nil && err == nil {
			err = fmt.Errorf("tidying up: %w", left)
		}
	}()
	begin := time.Now()
	// What is made once and stays (directories of the network) is made by a first pod.
	n.life(ctx, "first", rand.New(rand.NewPCG(n.seed, 0)))
	if err := n.removeImages(ctx); err != nil {
		return false, err
	}
	before, err := n.surveyor().Take()
	if err != nil {
		return false, err
	}
	quiet := min(o.length/5, 5*time.Minute)
	if err := n.churn(ctx, "warm-up", quiet, false); err != nil {
		return false, err
	}
	first, err := n.settled(ctx, nil)
	if err != nil {
		return false, err
	}
	fmt.Printf("soak: after the warm-up: %s\n", first)
	if err := n.churn(ctx, "storm", o.length-2*quiet, true); err != nil {
		return false, err
	}
	if err := n.churn(ctx, "calm", quiet, false); err != nil {
		return false, err
	}
	last, err := n.settled(ctx, &first)
	if err != nil {
		return false, err
	}
	fmt.Printf("soak: at the end:        %s\n", last)
	if err := n.removeImages(ctx); err != nil {
		return false, err
	}
	left, err := n.surveyor().Left(before, 30*time.Second)
	if err != nil {
		return false, err
	}
	return n.verdict(time.Since(begin), first, last, left), nil
}

// verdict prints what was found, the last line last.
func (n *node) verdict(took time.Duration, first, last figures, left []string) bool {
	t := &n.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range left {
		fmt.Println("leaked:", l)
	}
	for _, f := range t.findings {
		fmt.Println("found:", f)
	}
	fmt.Printf("soak: %d containers, %d execs, %d log rotations, %d pulls; %d retries; %d bytes checked; %d exits that the kernel could not tell\n",
		t.containers, t.execs, t.rotations, t.pulls, t.retries, t.checked, t.unknown)
	grown := first.grown(last)
	for _, g := range grown {
		fmt.Println("grown:", g)
	}
	fmt.Printf("soak: %s, %d pods, %d kills of the daemon, %d of the monitor, %d leaked, %d bytes lost, %d exits invented, memory %+.1f MiB, descriptors %+d, threads %+d, actors %+d\n",
		took.Round(time.Second), t.pods, t.daemonKills, t.monitorKills, len(left), t.lost, t.invented,
		float64(last.memory-first.memory)/(1<<20), last.descriptors-first.descriptors, last.threads-first.threads, last.actors-first.actors)
	return len(left) == 0 && t.lost == 0 && t.invented == 0 && len(t.findings) == 0 && len(grown) == 0
}

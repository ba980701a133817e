// Command crash kills Troupe at every crash point (backends/failpoint) in turn,
// while a client does what a kubelet does, lets it come back and the client try
// again, and then compares the node with what it should hold: nothing is left
// over, every line a container wrote is in its log once, and every exit that is
// told is the one that happened. It prints a line for each point that was not
// survived; the last line has the sums. Run it by `make crash-test`.
//
// Each worker is a process on a node of its own (harness.Enter) with a daemon, a
// monitor, a registry and a pod that must never notice anything.
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	"go.podman.io/storage/pkg/reexec"
)

type options struct {
	bin     string
	only    string
	modes   string
	workers int
	every   int
	seed    uint64
	limit   time.Duration
	verbose bool
	keep    bool
	worker  bool
}

func main() {
	if reexec.Init() { // the storage library runs its program again
		return
	}
	o := &options{}
	flag.StringVar(&o.bin, "bin", ".cache/failpoints", "folder of a troupe and a troupe-monitor with failpoints")
	flag.StringVar(&o.only, "only", "", "regular expression: only the points whose 'mode point' it matches")
	flag.StringVar(&o.modes, "mode", strings.Join(allModes, ","), "what is done at a point")
	flag.IntVar(&o.workers, "workers", 4, "how many nodes work at a time")
	flag.IntVar(&o.every, "every", 1, "try only one point in so many")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().Unix()), "draws which points -every takes, and the order")
	flag.DurationVar(&o.limit, "limit", time.Minute, "how long one point may take")
	flag.BoolVar(&o.verbose, "v", false, "print a line for each point")
	flag.BoolVar(&o.keep, "logs", false, "print the end of the logs of what failed")
	flag.BoolVar(&o.worker, "worker", false, "be a worker (internal)")
	flag.Parse()
	if o.worker {
		harness.Enter()
		if err := work(o); err != nil {
			fmt.Fprintln(os.Stderr, "worker:", err)
			os.Exit(1)
		}
		return
	}
	if err := o.check(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	t, err := lead(o)
	if err != nil {
		fmt.Println("FAIL", err)
	}
	fmt.Println(t)
	if err != nil || !t.good() {
		os.Exit(1)
	}
}

func (o *options) check() error {
	if _, err := regexp.Compile(o.only); err != nil {
		return err
	}
	for m := range strings.SplitSeq(o.modes, ",") {
		if !slices.Contains(allModes, m) {
			return fmt.Errorf("-mode %q: give some of %s", m, strings.Join(allModes, ", "))
		}
	}
	return nil
}

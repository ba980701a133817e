package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"time"

	"github.com/spf13/cobra"

	"github.com/troupe-run/troupe/simulations"
)

// seedsCommand is `troupe-sim seeds`.
func seedsCommand() *cobra.Command {
	var m simulations.Many
	var kinds bool
	var shorten time.Duration
	var profile string
	cmd := &cobra.Command{
		Use:   "seeds",
		Short: "Run many seeds on the simulated node, on all cores",
		Long: `Runs many seeds, each with all its pods and the faults drawn from it, and says
in its last line what came of them. For the first three seeds that break a promise it
looks for a smaller run that does too, and says how to replay it.
Exits 1 when a promise is broken.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if m.First == 0 {
				m.First = uint64(time.Now().UnixNano())
			}
			fmt.Printf("seeds from %d on\n", m.First)
			n, told := 0, time.Now()
			m.Ended = func(r simulations.Result) {
				n++
				if len(r.Failures) > 0 {
					fmt.Println("FAIL", r)
					fmt.Println("    ", r.Failures[0])
				}
				if time.Since(told) > 10*time.Second {
					told = time.Now()
					fmt.Fprintf(os.Stderr, "%d of %d seeds\n", n, m.Seeds)
				}
			}
			s, err := profiled(profile, m.Do)
			if err != nil {
				return err
			}
			for _, r := range s.Broken[:min(3, len(s.Broken))] {
				tellShort(r, m.All, shorten)
			}
			if kinds {
				for _, kind := range s.Kinds() {
					fmt.Printf("  %7d × %s\n", s.Injected[kind], kind)
				}
			}
			fmt.Println(s)
			if len(s.Broken) > 0 {
				return fmt.Errorf("%d of %d seeds broke a promise", len(s.Broken), s.Seeds)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.Uint64Var(&m.First, "first", 0, "the first seed; 0: fresh ones")
	f.IntVar(&m.Seeds, "seeds", 1000, "how many")
	f.IntVar(&m.Pods, "pods", 200, "pods of each run")
	f.BoolVar(&m.All, "all", false, "all faults in each run, as often as drawn; without, some of them in most runs")
	f.IntVar(&m.Workers, "workers", runtime.NumCPU(), "runs at a time")
	f.DurationVar(&shorten, "shorten", time.Minute, "how long a smaller run that fails too is looked for")
	f.StringVar(&profile, "cpuprofile", "", "write a CPU profile of the runs here, for go tool pprof")
	f.BoolVar(&kinds, "kinds", false, "print how often each kind of fault was injected")
	return cmd
}

// tellShort says the shortest story of a failure it can find in a while.
func tellShort(r simulations.Result, all bool, within time.Duration) {
	short, result := simulations.Run{Seed: r.Seed, Pods: r.Pods, All: all}.Shorten(within)
	if len(result.Failures) == 0 {
		fmt.Printf("seed %d: no shorter story was found; replay: troupe-sim run --seed %d --pods %d --all=%v --transcript\n", r.Seed, r.Seed, r.Pods, all)
		return
	}
	fmt.Printf("seed %d fails with %d pods and %s too:\n", r.Seed, short.Pods, short.Faults)
	for i, failure := range result.Failures {
		if i == 5 {
			fmt.Printf("     … and %d more\n", len(result.Failures)-i)
			break
		}
		fmt.Println("    ", failure)
	}
	fmt.Printf("     replay: troupe-sim run --seed %d --pods %d --faults '%s' --transcript\n", r.Seed, short.Pods, short.Faults)
}

// profiled is many runs with their CPU profile, if one is wanted.
func profiled(path string, run func() simulations.Summary) (simulations.Summary, error) {
	if path == "" {
		return run(), nil
	}
	f, err := os.Create(path)
	if err != nil {
		return simulations.Summary{}, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return simulations.Summary{}, err
	}
	s := run()
	pprof.StopCPUProfile()
	return s, f.Close()
}

package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/troupe-run/troupe/simulations"
)

// runCommand is `troupe-sim run`.
func runCommand() *cobra.Command {
	var seed uint64
	var pods int
	var calm, all, transcript bool
	var faults string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run pods on a simulated node: the real actors, virtual time, one seed",
		Long: `Runs the lives of many pods on a node in memory, with faults drawn from the
seed: calls that fail before or after their effect, half-done effects, hangs,
deaths of processes, daemon, monitor and node, full and read-only disks and more
(DESIGN.md has the table). Then the faults end and the node must become empty. Two runs of one seed are the same to
the byte; the transcript's digest is printed. Exits 1 when a promise is broken.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			r := simulations.Run{Seed: seed, Pods: pods, All: all}
			if calm {
				r.Faults = &simulations.Faults{}
			}
			if faults != "" {
				plan, err := simulations.ParseFaults(faults)
				if err != nil {
					return fmt.Errorf("--faults: %w", err)
				}
				r.Faults = &plan
			}
			if transcript {
				r.Transcript = io.Writer(os.Stdout)
			}
			result := r.Do()
			fmt.Println(result)
			for _, kind := range slices.Sorted(maps.Keys(result.Injected)) {
				fmt.Printf("  %5d × %s\n", result.Injected[kind], kind)
			}
			for _, f := range result.Failures {
				fmt.Println("  FAIL", f)
			}
			if len(result.Failures) > 0 {
				return fmt.Errorf("seed %d broke %d promises: replay it with --transcript", seed, len(result.Failures))
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.Uint64Var(&seed, "seed", 1, "what everything is drawn from")
	f.IntVar(&pods, "pods", 100, "pods to run through their lives")
	f.BoolVar(&calm, "calm", false, "without faults")
	f.BoolVar(&all, "all", false, "draw all faults there are")
	f.StringVar(&faults, "faults", "", "these faults instead of those drawn from the seed, as a failing run prints them")
	f.BoolVar(&transcript, "transcript", false, "print every line of what happens")
	return cmd
}

package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/troupe-run/troupe/cmd/troupe-sim/load"
)

// loadCommand is `troupe-sim load`.
func loadCommand() *cobra.Command {
	var o load.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "load --socket PATH --image REF",
		Short: "Put pods on a real CRI socket; report latency, CPU and memory",
		Long: `Brings the runtime behind a CRI socket to each of the given numbers of pods and
measures with them: the latency of each call of further pods' lives and of
lists; a burst of starts by several callers, and the CPU time of the machine for
it; the memory (PSS) and the idle CPU time of the runtime's own processes, named
by --processes. All pods it made are removed, also after an error or an
interrupt. CPU times are right only while nothing else runs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Progress = func(what string) { fmt.Fprintln(os.Stderr, "load:", what) }
			report, err := load.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(os.Stdout)
				enc.SetIndent("", "  ")
				return enc.Encode(report)
			}
			return report.Print(os.Stdout)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Socket, "socket", "/run/troupe/troupe.sock", "path of the CRI socket")
	f.StringVar(&o.Image, "image", "", "image with sleep and true in it; it is pulled first")
	f.StringVar(&o.Handler, "handler", "", "runtime handler; empty: the runtime's default")
	f.StringVar(&o.CgroupParent, "cgroup-parent", "", "cgroup parent of the pods; empty: the runtime's default")
	f.StringVar(&o.LogDir, "log-dir", "", "directory for container logs; empty: no logs")
	f.IntSliceVar(&o.Present, "present", []int{0}, "numbers of pods that are there while it is measured, ascending: 1,10,100")
	f.IntVar(&o.Lives, "lives", 20, "pods to run through a whole life with each, one at a time")
	f.IntVar(&o.Execs, "execs", 3, "ExecSync calls a life")
	f.IntVar(&o.Lists, "lists", 10, "calls of each list with each")
	f.IntVar(&o.Burst, "burst", 0, "pods to start, several at a time, with each; and to remove")
	f.IntVar(&o.Callers, "callers", 8, "how many at a time")
	f.IntVar(&o.BurstFrom, "burst-from", 0, "only where there are so many pods")
	f.DurationVar(&o.Idle, "idle", 0, "how long to watch the runtime's processes while a kubelet only lists")
	f.StringSliceVar(&o.Processes, "processes", nil, "names of the runtime's binaries, whose memory and idle CPU time is measured")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	_ = cmd.MarkFlagRequired("image") // the flag is defined above
	return cmd
}

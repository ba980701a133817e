package main

import (
	"encoding/json"
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
		Short: "Put pods on a real CRI socket; report latency and memory",
		Long: `Runs pods through their lives on the runtime behind a CRI socket, several
callers at a time, and reports the latency of each call; then holds given
numbers of pods and reports the proportional set size (PSS) of the runtime's
own processes, named by --processes. All pods it made are removed, also after
an error or an interrupt.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
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
	f.IntVar(&o.Pods, "pods", 20, "pods to run through a whole life")
	f.IntVar(&o.Callers, "callers", 1, "pods at a time")
	f.IntVar(&o.Execs, "execs", 3, "ExecSync calls a container")
	f.IntVar(&o.Warmup, "warmup", 2, "pods run first and not counted")
	f.IntSliceVar(&o.Hold, "hold", nil, "numbers of pods to hold while memory is measured, ascending: 1,10,50")
	f.StringSliceVar(&o.Processes, "processes", nil, "names of the runtime's binaries, whose memory is measured")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	_ = cmd.MarkFlagRequired("image") // the flag is defined above
	return cmd
}

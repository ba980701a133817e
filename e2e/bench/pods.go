package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/troupe-run/troupe/cmd/troupe-sim/load"
	"github.com/troupe-run/troupe/e2e/harness"
	"github.com/troupe-run/troupe/e2e/plot"
	"github.com/troupe-run/troupe/e2e/verdict"
)

// pods is `make bench`. The driver is a process of its own: what it uses is
// not counted as the runtime's.
func pods(ctx context.Context, o options) error {
	rounds := map[string][]*load.Report{}
	var steps []plot.Bar
	for range max(1, o.rounds) { // in turns: the machine is not equally fast all the time
		err := o.each(ctx, func(ctx context.Context, s *stage, c contender) error {
			l, err := o.begin(ctx, s, c)
			if err != nil {
				return err
			}
			report, err := drive(ctx, l, o.burst)
			if err != nil {
				return err
			}
			rounds[c.name] = append(rounds[c.name], report)
			if s.daemon != nil {
				steps, err = waterfall(ctx, s)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	reports := map[string]*load.Report{}
	for name, all := range rounds {
		reports[name] = load.Median(all)
	}
	text := callsTable(reports)
	if o.only != "" {
		fmt.Println(text)
		return nil // half a comparison is not kept
	}
	targets := podTargets(reports[troupe], reports[containerd])
	table := verdict.Table(containerd, targets)
	p := &page{options: o, name: "RESULTS", kind: "bench", title: "Troupe beside containerd", raw: reports, busy: busiest(reports)}
	p.pictures = map[string]string{"targets.svg": plot.Ratios("Troupe's figures as a part of containerd's: less is better", ratios(targets))}
	if len(steps) > 0 {
		p.pictures["start.svg"] = plot.Waterfall("One pod start, step by step", steps)
	}
	p.about = fmt.Sprintf("Both on the same tmpfs, CNI network (bridge and host-local, Debian's plugins), image and load, in turns, %d times,\n"+
		"medians of that: `troupe-sim load` brings each to %v pods and then runs %d more through their lives, one at a time, as\n"+
		"the kubelet would (one container, RuntimeDefault seccomp, memory limit, 3 ExecSync of `true`), lists, and starts\n"+
		"%d pods by %d callers. Troupe %s; containerd %s with the runc that `tools/peers/go.mod` pins. Targets are of the level\n"+
		"with most pods. CPU of a start is the whole machine's without the driver's: the runtime, what it executes, and the\n"+
		"kernel's work for them. PSS is that of the daemon and all its monitors or shims, not of containers or pause\n"+
		"processes. Idle: a kubelet lists pods and containers each second and asks for the status each fifth.\n"+
		"The floors in the picture of one start are those of the design's measurements (libcontainer alone, an overlay mount,\n"+
		"CNI plugins executed by hand), made on a machine of this size.\n",
		o.rounds, []int(o.present), o.lives, o.burst, o.callers, reports[troupe].Version, reports[containerd].Version)
	return p.publish(text + "\n" + table)
}

func drive(ctx context.Context, l load.Options, burst int) (*load.Report, error) {
	sim, err := harness.Tool("troupe-sim")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, sim, "load", "--json", "--socket", l.Socket, "--image", l.Image, "--handler", l.Handler,
		"--present", strings.ReplaceAll(strings.Trim(fmt.Sprint(l.Present), "[]"), " ", ","), "--lives", strconv.Itoa(l.Lives),
		"--lists", strconv.Itoa(l.Lists), "--burst", strconv.Itoa(burst), "--burst-from", strconv.Itoa(highest(l.Present)),
		"--callers", strconv.Itoa(l.Callers), "--idle", l.Idle.String(),
		"--processes", strings.Join(l.Processes, ","), "--log-dir", l.LogDir, "--cgroup-parent", l.CgroupParent)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("troupe-sim load: %w", err)
	}
	report := &load.Report{}
	return report, json.Unmarshal(out, report)
}

func highest(n numbers) int {
	most := 0
	for _, v := range n {
		most = max(most, v)
	}
	return most
}

func busiest(reports map[string]*load.Report) (cores float64) {
	for _, r := range reports {
		for _, l := range r.Levels {
			cores = max(cores, l.Busy)
		}
	}
	return cores
}

// podTargets are issue 7's, at the level with most pods.
func podTargets(ours, theirs *load.Report) []verdict.Target {
	o, p := last(ours), last(theirs)
	both := func(text string, limit float64, calls ...string) []verdict.Target {
		return []verdict.Target{
			verdict.AtMost(text+", p50 ms", limit, sum(o.Calls, p50, calls...), sum(p.Calls, p50, calls...)),
			verdict.AtMost(text+", p99 ms", limit, sum(o.Calls, p99, calls...), sum(p.Calls, p99, calls...)),
		}
	}
	all := both("RunPodSandbox + CreateContainer + StartContainer", 0.3, "RunPodSandbox", "CreateContainer", "StartContainer")
	all = append(all, both("ExecSync", 0.4, "ExecSync")...)
	all = append(all, both("StopContainer + StopPodSandbox + RemovePodSandbox", 0.35, "StopContainer", "StopPodSandbox", "RemovePodSandbox")...)
	all = append(all, both(fmt.Sprintf("ListContainerStats of %d", o.Present), 0.1, "ListContainerStats")...)
	if o.Burst != nil && p.Burst != nil {
		all = append(all,
			verdict.AtLeast(fmt.Sprintf("pods started a second, %d callers", o.Burst.Callers), 5, burstRate(o), burstRate(p)),
			verdict.AtMost("CPU ms per pod started", 0.2, burstCPU(o), burstCPU(p)))
	}
	all = append(all, verdict.AtMost(fmt.Sprintf("PSS MiB of daemon and monitors, %d pods", o.Present), 0.1, mib(o), mib(p)))
	if first := ours.Levels[0]; first.Present < o.Present {
		all = append(all, verdict.NoMore("PSS MiB each further pod costs", 0.1, (mib(o)-mib(first))/float64(o.Present-first.Present)))
	}
	if o.Idle != nil && p.Idle != nil {
		all = append(all, verdict.AtMost("idle CPU, % of a core", 0.5, idleShare(o), idleShare(p)))
	}
	return all
}

func last(r *load.Report) load.Level { return r.Levels[len(r.Levels)-1] }

func p50(s load.Stat) float64 { return s.P50 }
func p99(s load.Stat) float64 { return s.P99 }

func sum(calls map[string]load.Stat, of func(load.Stat) float64, names ...string) (total float64) {
	for _, n := range names {
		total += of(calls[n])
	}
	return total
}

func mib(l load.Level) float64 { return float64(l.Memory.PSSKiB) / 1024 }

// burstRate is pods a second, burstCPU milliseconds for each, idleShare a part
// of a core in per cent; 0: not measured at this level.
func burstRate(l load.Level) float64 {
	if l.Burst == nil {
		return 0
	}
	return float64(l.Burst.Pods) / l.Burst.Start.Seconds
}

func burstCPU(l load.Level) float64 {
	if l.Burst == nil {
		return 0
	}
	return 1000 * l.Burst.Start.CPUSeconds / float64(l.Burst.Pods)
}

func idleShare(l load.Level) float64 {
	if l.Idle == nil {
		return 0
	}
	return 100 * l.Idle.CPUSeconds / l.Idle.Seconds
}

// ratios turns targets with a peer into bars: where more is better, the peer's
// as a part of ours.
func ratios(all []verdict.Target) (rows []plot.Ratio) {
	for _, t := range all {
		switch {
		case t.Alone:
		case t.Least:
			rows = append(rows, plot.Ratio{Text: t.Text, Value: 1 / t.Ratio(), Wanted: 1 / t.Limit})
		default:
			rows = append(rows, plot.Ratio{Text: t.Text, Value: t.Ratio(), Wanted: t.Limit})
		}
	}
	return rows
}

// callsTable has every call at every level, in milliseconds.
func callsTable(reports map[string]*load.Report) string {
	var b strings.Builder
	for i := range levels(reports) {
		fmt.Fprintf(&b, "| with %4d pods, ms   |", presentAt(reports, i))
		names := []string{}
		for _, c := range contenders {
			if reports[c.name] != nil {
				names = append(names, c.name)
				fmt.Fprintf(&b, " %10s p50 |      p99 |", c.name)
			}
		}
		b.WriteString("\n| ------------------- |" + strings.Repeat(" -------------: | -------: |", len(names)) + "\n")
		for _, call := range load.Calls {
			fmt.Fprintf(&b, "| %-19s |", call)
			for _, n := range names {
				s := reports[n].Levels[i].Calls[call]
				fmt.Fprintf(&b, " %14.2f | %8.2f |", s.P50, s.P99)
			}
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "| %-19s |", "PSS, MiB")
		for _, n := range names {
			fmt.Fprintf(&b, " %14.1f | %8s |", mib(reports[n].Levels[i]), "")
		}
		b.WriteString("\n")
		for _, row := range []struct {
			what string
			of   func(load.Level) float64
		}{{"pods a second", burstRate}, {"CPU ms a start", burstCPU}, {"idle, % of a core", idleShare}} {
			fmt.Fprintf(&b, "| %-19s |", row.what)
			for _, n := range names {
				fmt.Fprintf(&b, " %14.2f | %8s |", row.of(reports[n].Levels[i]), "")
			}
			b.WriteString("\n")
		}
		b.WriteString("\n")
	}
	return b.String()
}

func levels(reports map[string]*load.Report) (n int) {
	for _, r := range reports {
		n = max(n, len(r.Levels))
	}
	return n
}

func presentAt(reports map[string]*load.Report, i int) int {
	for _, r := range reports {
		return r.Levels[i].Present
	}
	return 0
}

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/troupe-run/troupe/cmd/troupe-sim/load"
	"github.com/troupe-run/troupe/e2e/plot"
	"github.com/troupe-run/troupe/e2e/verdict"
)

// operation is what is to cost the same however many pods there are.
type operation struct {
	name  string
	calls []string
	each  bool // a list: what counts is its time per item
}

var operations = []operation{
	{"pod start (RunPodSandbox + CreateContainer + StartContainer)", []string{"RunPodSandbox", "CreateContainer", "StartContainer"}, false},
	{"ExecSync", []string{"ExecSync"}, false},
	{"stop (StopContainer + StopPodSandbox + RemovePodSandbox)", []string{"StopContainer", "StopPodSandbox", "RemovePodSandbox"}, false},
	{"ListPodSandbox, per pod", []string{"ListPodSandbox"}, true},
	{"ListContainers, per container", []string{"ListContainers"}, true},
	{"ListContainerStats, per container", []string{"ListContainerStats"}, true},
}

// density is `make density`: Troupe alone, with more and more real pods. What
// does not fit on the machine is left out and said.
func density(ctx context.Context, o options) error {
	o.only = troupe
	raw := struct {
		Report    *load.Report
		Comebacks []comeback
		Floors    []floor
	}{}
	err := o.each(ctx, func(ctx context.Context, s *stage, c contender) error {
		l, err := o.begin(ctx, s, c)
		if err != nil {
			return err
		}
		l.After = func(ctx context.Context, level load.Level) error {
			f, err := s.floor(ctx)
			if err != nil {
				return err
			}
			raw.Floors = append(raw.Floors, f)
			var some []comeback
			for range 3 {
				b, err := s.restarted(ctx, l.Socket, level.Present)
				if err != nil {
					return err
				}
				some = append(some, b)
			}
			slices.SortFunc(some, func(a, b comeback) int { return int(a.Lists - b.Lists) })
			raw.Comebacks = append(raw.Comebacks, some[1])
			return nil
		}
		raw.Report, err = load.Run(ctx, l)
		return err
	})
	if err != nil {
		return err
	}
	r := raw.Report
	first, last := r.Levels[0], last(r)
	var targets []verdict.Target
	var series []plot.Series
	for _, op := range operations {
		series = append(series, op.series(r))
		targets = append(targets, verdict.AtMost(fmt.Sprintf("%s, ms with %d to %d pods", op.name, last.Present, first.Present), 1.2, op.cost(last), op.cost(first)))
	}
	little, much := raw.Floors[0], raw.Floors[len(raw.Floors)-1]
	start := operations[0]
	targets = append(targets, verdict.AtMost(fmt.Sprintf("pod start less CNI's ADD called by itself, ms with %d to %d pods", last.Present, first.Present),
		1.2, start.cost(last)-much.Add, start.cost(first)-little.Add))
	restarts := plot.Series{Name: "restart until all are listed, per pod"}
	for i, b := range raw.Comebacks {
		restarts.X, restarts.Y = append(restarts.X, float64(r.Levels[i].Present)), append(restarts.Y, b.Lists/float64(r.Levels[i].Present))
	}
	series = append(series, restarts)
	targets = append(targets,
		verdict.AtMost(fmt.Sprintf("restart until all are listed, per pod, ms with %d to %d pods", last.Present, first.Present), 1.2,
			raw.Comebacks[len(raw.Comebacks)-1].Lists/float64(last.Present), raw.Comebacks[0].Lists/float64(first.Present)),
		verdict.NoMore("PSS MiB each further pod costs", 0.1, (mib(last)-mib(first))/float64(last.Present-first.Present)))
	var table strings.Builder
	table.WriteString("| pods | start ms | exec ms | stop ms | ListPodSandbox ms | ListContainers ms | ListContainerStats ms | restart ms | PSS MiB | CNI ADD ms | CNI DEL ms |\n")
	table.WriteString("| ---: | -------: | ------: | ------: | ----------------: | ----------------: | --------------------: | ---------: | ------: | ---------: | ---------: |\n")
	for i, l := range r.Levels {
		fmt.Fprintf(&table, "| %4d |", l.Present)
		for k, op := range operations {
			fmt.Fprintf(&table, " %*.2f |", []int{8, 7, 7, 17, 17, 21}[k], sum(l.Calls, p50, op.calls...))
		}
		fmt.Fprintf(&table, " %10.0f | %7.1f | %10.1f | %10.1f |\n", raw.Comebacks[i].Lists, mib(l), raw.Floors[i].Add, raw.Floors[i].Del)
	}
	p := &page{
		options: o, name: "DENSITY", kind: "density", title: "The thousandth pod costs what the tenth did", raw: raw, busy: busiest(map[string]*load.Report{troupe: r}),
		pictures: map[string]string{"density.svg": plot.Lines("Cost with more and more pods, relative to the first", "pods present (logarithmic)", series)},
		about: fmt.Sprintf("Real pods (a container each, CNI bridge, overlay root, cgroups), as many as there are in the table; a Linux bridge has 1,023\n"+
			"ports, which is the limit of one such node. With each number: %d further pods' lives one at a time, %d lists, three\n"+
			"SIGKILLs of the daemon. Medians. Lists are compared per item. CNI ADD and DEL are the bridge plugin (with host-local) called by\n"+
			"itself for a network namespace on the same bridge: what a pod's start and stop wait for, whose runtime ever it is.\n", o.lives, o.lists),
	}
	return p.publish(table.String() + "\n" + verdict.Table("with few", targets))
}

// floor is what the CNI plugins take by themselves, medians in milliseconds.
type floor struct{ Add, Del float64 }

func (s *stage) floor(ctx context.Context) (floor, error) {
	var adds, dels []float64
	for range 15 {
		add, del, err := s.network.Floor(ctx)
		if err != nil {
			return floor{}, err
		}
		adds, dels = append(adds, 1e3*add.Seconds()), append(dels, 1e3*del.Seconds())
	}
	slices.Sort(adds)
	slices.Sort(dels)
	return floor{adds[len(adds)/2], dels[len(dels)/2]}, nil
}

// cost is in milliseconds, the median.
func (op operation) cost(l load.Level) float64 {
	c := sum(l.Calls, p50, op.calls...)
	if op.each {
		c /= float64(l.Present)
	}
	return c
}

func (op operation) series(r *load.Report) plot.Series {
	s := plot.Series{Name: strings.Split(op.name, " (")[0]}
	for _, l := range r.Levels {
		s.X, s.Y = append(s.X, float64(l.Present)), append(s.Y, op.cost(l))
	}
	return s
}

package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	debugv1 "github.com/troupe-run/troupe/messages/debugv1"
)

// watch calls look every few milliseconds until the returned function is
// called, which looks once more; it may be called twice.
func watch(ctx context.Context, look func(context.Context)) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				look(ctx)
				return
			case <-ctx.Done():
				return
			case <-time.After(5 * time.Millisecond):
				look(ctx)
			}
		}
	}()
	var once sync.Once
	return func() { once.Do(func() { close(done); <-ended }) }
}

// watchPulls prints how far pulls are whenever that has changed visibly.
func (d *demo) watchPulls(ctx context.Context) func() {
	last := ""
	return watch(ctx, func(ctx context.Context) {
		r, err := d.images.Pulls(ctx, &debugv1.PullsRequest{})
		if err != nil {
			return // it is only for show
		}
		for _, p := range r.Pulls {
			if line := progress(p); line != last {
				d.say("%s", line)
				last = line
			}
		}
	})
}

// progress shows layers in eighths, so that a line is a visible change.
func progress(p *debugv1.Pull) string {
	var bars []string
	for _, l := range p.Layers {
		eighths := 0
		if l.Size > 0 {
			eighths = int(l.Received * 8 / l.Size)
		}
		if l.State == "ready" || l.State == "done" {
			eighths = 8
		}
		eighths = min(eighths, 8)
		bars = append(bars, "["+strings.Repeat("=", eighths)+strings.Repeat(" ", 8-eighths)+"]")
	}
	return fmt.Sprintf("%-10s %s", p.State, strings.Join(bars, " "))
}

// watchLives prints every change of state and step of pods and containers.
func (d *demo) watchLives(ctx context.Context) func() {
	seen := map[string]int{}
	return watch(ctx, func(ctx context.Context) {
		r, err := d.inspect.Timeline(ctx, &debugv1.TimelineRequest{})
		if err != nil {
			return // it is only for show
		}
		for _, l := range r.Lives {
			key := l.PodSandboxId + l.ContainerId
			for _, e := range l.Edges[min(seen[key], len(l.Edges)):] {
				d.edge(l, e)
			}
			seen[key] = len(l.Edges)
		}
	})
}

func (d *demo) edge(l *debugv1.Life, e *debugv1.Edge) {
	kind := "pod"
	if l.ContainerId != "" {
		kind = "container"
	}
	what := fmt.Sprintf("%s → %s", e.From, e.To)
	if e.From == e.To || e.To == "" {
		what = e.From
	}
	line := fmt.Sprintf("%-9s %-12s %-22s", kind, l.Name, what)
	if e.Step != "" {
		line += fmt.Sprintf(" %-12s", e.Step)
	}
	if t := e.Took.AsDuration(); t > 0 {
		line += fmt.Sprintf(" %6.1f ms", float64(t.Microseconds())/1000)
	}
	if e.Error != "" {
		line += "  " + e.Error
	}
	d.noteAt(e.At.AsTime(), "  %s", strings.TrimRight(line, " "))
}

func (d *demo) tree(ctx context.Context) error {
	r, err := d.inspect.Tree(ctx, &debugv1.TreeRequest{})
	if err != nil {
		return err
	}
	for _, a := range r.Actors {
		depth := strings.Count(a.Path, "/")
		name := a.Path[strings.LastIndex(a.Path, "/")+1:]
		line := fmt.Sprintf("%s%-*s %-10s %s", strings.Repeat("  ", depth), 26-2*depth, short(name), a.Kind, a.State)
		if len(a.Owns) > 0 {
			line += "  " + strings.Join(a.Owns, " ")
		}
		d.note("  %s", clip(line, 150))
	}
	return nil
}

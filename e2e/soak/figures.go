package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// figures are what the runtime's processes hold while no pod is there.
type figures struct {
	memory                       int64 // bytes of their own that are no file's (Anonymous of smaps_rollup)
	descriptors, threads, actors int
}

func (f figures) String() string {
	return fmt.Sprintf("memory %.1f MiB, descriptors %d, threads %d, actors %d", float64(f.memory)/(1<<20), f.descriptors, f.threads, f.actors)
}

// What may be more at the end than after the warm-up, for all processes
// together. Nothing of a pod's is among it.
const (
	// Go's heap is up to twice what is used, and what it gave back the kernel
	// takes when it likes: two processes of 20 to 40 MiB.
	memoryMore = 24 << 20
	// A listener's or a client's connection more or less at that moment.
	descriptorsMore = 4
	// Go keeps every thread it once needed; how many that is, chance decides.
	threadsMore = 16
)

// grown says what is more than it may be.
func (f figures) grown(last figures) []string {
	var out []string
	look := func(what string, before, after, more int64) {
		if after > before+more {
			out = append(out, fmt.Sprintf("%s: %d, then %d; %d more are allowed", what, before, after, more))
		}
	}
	look("memory in bytes", f.memory, last.memory, memoryMore)
	look("descriptors", int64(f.descriptors), int64(last.descriptors), descriptorsMore)
	look("threads", int64(f.threads), int64(last.threads), threadsMore)
	look("actors", int64(f.actors), int64(last.actors), 0)
	return out
}

// patience is how long figures may take to settle: Go collects a heap that is
// not worked on every two minutes, and gives memory back after that.
const patience = 150 * time.Second

// settled measures when nothing changes any more, or (with figures to reach)
// nothing is more than it may be.
func (n *node) settled(ctx context.Context, reach *figures) (figures, error) {
	end := time.Now().Add(patience)
	if reach == nil { // the first measurement waits for the collection too
		end = time.Now().Add(patience)
		for time.Now().Before(end) && ctx.Err() == nil {
			time.Sleep(time.Second)
		}
		return n.measure(ctx)
	}
	for {
		f, err := n.measure(ctx)
		if err != nil || len(reach.grown(f)) == 0 || time.Now().After(end) {
			return f, err
		}
		time.Sleep(time.Second)
	}
}

func (n *node) measure(ctx context.Context) (f figures, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, pid := range append(n.daemon.Monitors(), n.daemon.Pid()) {
		if err := f.addProcess(pid); err != nil {
			return f, err
		}
	}
	cmd := n.daemon.Command("tree", "-o", "json")
	out, err := cmd.Output()
	if err != nil {
		return f, fmt.Errorf("troupe tree: %w", err)
	}
	var tree struct {
		Actors []json.RawMessage `json:"actors"`
	}
	if err := json.Unmarshal(out, &tree); err != nil {
		return f, fmt.Errorf("troupe tree: %w", err)
	}
	f.actors = len(tree.Actors)
	return f, ctx.Err()
}

func (f *figures) addProcess(pid int) error {
	dir := fmt.Sprintf("/proc/%d/", pid)
	rollup, err := os.ReadFile(dir + "smaps_rollup")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(rollup)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "Anonymous:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				return err
			}
			f.memory += kib << 10
		}
	}
	for what, count := range map[string]*int{"fd": &f.descriptors, "task": &f.threads} {
		entries, err := os.ReadDir(dir + what)
		if err != nil {
			return err
		}
		*count += len(entries)
	}
	return nil
}

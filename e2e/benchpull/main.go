// Command benchpull measures image pulls by Troupe and by containerd side by
// side in one run: same machine, same registry in memory, each pull on a fresh
// journaled ext4 of its own. Beside them stands the floor: the same bytes
// through the bare libraries. It prints a table of targets and writes
// bench/pull.json and bench/PULL.md.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/troupe-run/troupe/cmd/troupe-sim/load"
	"github.com/troupe-run/troupe/e2e/harness"
	"go.podman.io/storage/pkg/reexec"
)

func main() {
	if reexec.Init() { // the storage library unpacks in copies of this program
		return
	}
	var o options
	flag.IntVar(&o.runs, "runs", 3, "times each pull is measured; the median counts")
	flag.StringVar(&o.only, "only", "", "only these contenders, with commas between them")
	flag.StringVar(&o.steps, "steps", "", "only scenes with one of these words in a step's name, with commas between them")
	flag.StringVar(&o.out, "out", "bench", "directory for pull.json and PULL.md, from the repository's root")
	flag.StringVar(&o.profile, "profile", "", "write a CPU profile of Troupe to this file, of the last pull of those that -steps leaves (and run slower for it)")
	flag.StringVar(&o.worker, "worker", "", "for the program itself: be this contender")
	flag.StringVar(&o.dir, "dir", "", "for the program itself: the worker's directory")
	flag.Parse()
	if o.profile != "" { // the daemon's working directory need not be ours
		o.profile, _ = filepath.Abs(o.profile)
	}
	harness.Enter()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-pull:", err)
		os.Exit(1)
	}
}

type options struct {
	runs                      int
	only, steps, out, profile string
	worker, dir               string
}

func run(ctx context.Context, o options) error {
	if o.worker != "" {
		return work(ctx, o.worker, o.dir)
	}
	others, err := load.BusyCores(ctx, time.Second)
	if err != nil {
		return err
	}
	if others > 0.2 {
		fmt.Fprintf(os.Stderr, "bench-pull: %.1f cores are busy with something else: the figures are not to be trusted\n", others)
	}
	r, err := startRegistry()
	if err != nil {
		return err
	}
	begin := time.Now()
	i, err := build(ctx, r, o.wanted)
	if err != nil {
		return fmt.Errorf("making the images: %w", err)
	}
	fmt.Fprintf(os.Stderr, "bench-pull: images made in %.0f s; the big one has %d files\n", time.Since(begin).Seconds(), i.bigFiles)
	out := results{}
	for round := range o.runs {
		for _, s := range scenes(i) {
			if !o.wanted(s.names()...) {
				continue
			}
			if round%2 == 1 { // who is first may have the colder caches
				slices.Reverse(s.by)
			}
			if err := o.playAll(ctx, r, s, out); err != nil {
				return err
			}
		}
	}
	return publish(out, i, others, o)
}

func (o options) playAll(ctx context.Context, r *registry, s scene, out results) error {
	for _, c := range s.by {
		if !oneOf(o.only, c) {
			continue
		}
		if err := play(ctx, r, s, c, o.profile, out); err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
	}
	return nil
}

// Names of the steps.
const (
	big       = "big"
	sibling   = "sibling"
	many      = "40 layers"
	ten       = "ten pulls of one"
	five      = "five sharing a base"
	zstdBig   = "big, zstd"
	chunked   = "zstd:chunked"
	update    = "its update"
	single30  = "one layer, 30 MB"
	single300 = "one layer, 300 MB"
)

func scenes(i *pulled) []scene {
	both := func() []string { return []string{troupe, containerd} }
	floors := []string{floorKlauspost}
	if _, err := exec.LookPath("igzip"); err == nil {
		floors = []string{floorIgzip, floorKlauspost}
	}
	return []scene{
		{[]step{{big, []string{i.big}}}, append(floors, viaSkopeo)},
		{[]step{{big, []string{i.big}}, {sibling, []string{i.sibling}}}, both()},
		{[]step{{many, []string{i.many}}}, both()},
		{[]step{{ten, slices.Repeat([]string{i.big}, 10)}}, both()},
		{[]step{{five, i.five}}, both()},
		{[]step{{zstdBig, []string{i.zstd}}}, append(both(), floorKlauspost)},
		{[]step{{chunked, []string{i.chunked}}, {update, []string{i.update}}}, both()},
		{[]step{{single30, []string{i.single30}}}, []string{troupe}},
		{[]step{{single300, []string{i.single300}}}, []string{troupe}},
	}
}

// wanted says whether one of the steps is to be measured.
func (o options) wanted(steps ...string) bool {
	return slices.ContainsFunc(steps, func(step string) bool {
		return o.steps == "" || slices.ContainsFunc(strings.Split(o.steps, ","), func(w string) bool { return strings.Contains(step, w) })
	})
}

func oneOf(list, name string) bool {
	return list == "" || slices.Contains(strings.Split(list, ","), name)
}

func publish(out results, i *pulled, others float64, o options) error {
	text := table(out, i)
	fmt.Println(text)
	if o.only != "" || o.steps != "" {
		return nil // a part of a comparison is not kept
	}
	root, err := harness.ProjectRoot()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, o.out)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "pull.json"), append(raw, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "PULL.md"), []byte(page(text, i.bigFiles, others, o)), 0o644)
}

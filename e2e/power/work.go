package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/troupe-run/troupe/e2e/blackout"
	"github.com/troupe-run/troupe/e2e/harness"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// node is the machine with Troupe running.
type node struct {
	*port
	plan *Plan
	cri  *harness.CRI
}

// obey is a machine's life: see what the cut before has left, remove, pull,
// and ask for the next cut.
func obey(p *port, plan *Plan) error {
	if err := startDaemon(plan); err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	cri, err := harness.Dial(socket)
	if err != nil {
		return err
	}
	n := &node{p, plan, cri}
	ctx := context.Background()
	wait, cancel := context.WithTimeout(ctx, plan.StartLimit)
	defer cancel()
	if _, err := cri.Runtime.Version(wait, &runtime.VersionRequest{}, grpc.WaitForReady(true)); err != nil {
		return fmt.Errorf("the daemon does not answer: %w; its log ends:\n%s", err, tail(20))
	}
	if err := n.look(ctx, atBoot); err != nil {
		return err
	}
	if plan.Last {
		return n.last(ctx)
	}
	for _, ref := range plan.Remove {
		if err := n.remove(ctx, ref); err != nil {
			return err
		}
	}
	return n.pullAndCut(ctx)
}

// look has the store judged and compares it with what Troupe shows.
func (n *node) look(ctx context.Context, stage string) error {
	f, err := judge(imageRoot, runDir+"/images")
	if err != nil {
		return fmt.Errorf("judging the store: %w", err)
	}
	r, err := n.cri.Image.ListImages(ctx, &runtime.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("ListImages: %w", err)
	}
	shown := 0
	for _, image := range r.Images {
		for _, tag := range image.RepoTags {
			shown++
			if f.Images[tag] != strings.TrimPrefix(image.Id, "sha256:") {
				f.Corrupt = append(f.Corrupt, fmt.Sprintf("image %s is listed with id %s, recorded with %q", tag, image.Id, f.Images[tag]))
			}
		}
	}
	if shown != len(f.Images) {
		f.Corrupt = append(f.Corrupt, fmt.Sprintf("%d images are listed, %d are recorded", shown, len(f.Images)))
	}
	if err := check(ctx, f); err != nil {
		return err
	}
	if err := blackout.FileSystemErrors(); err != nil {
		return err
	}
	n.tell(Event{Kind: "found", Stage: stage, Found: f})
	return nil
}

// check asks Troupe itself.
func check(ctx context.Context, f *Findings) error {
	out, err := exec.CommandContext(ctx, "/bin/troupe", "check", "--config", "/run/troupe.conf").CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		f.Checked = true
	case bytes.Contains(out, []byte("unknown command")):
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		f.Checked, f.Check = true, string(bytes.TrimSpace(out))
	default:
		return fmt.Errorf("troupe check: %w: %s", err, out)
	}
	return nil
}

func (n *node) remove(ctx context.Context, ref string) error {
	n.tell(Event{Kind: "removing", Ref: ref})
	if _, err := n.cri.Image.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: ref}}); err != nil {
		return fmt.Errorf("RemoveImage %s: %w", ref, err)
	}
	n.tell(Event{Kind: "removed", Ref: ref})
	return nil
}

func (n *node) pull(ctx context.Context, ref string) error {
	n.tell(Event{Kind: "pulling", Ref: ref})
	_, err := n.cri.Image.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}})
	if err != nil {
		return fmt.Errorf("PullImage %s: %w; the daemon's log ends:\n%s", ref, err, tail(20))
	}
	n.tell(Event{Kind: "answered", Ref: ref})
	return nil
}

func (n *node) pullAll(ctx context.Context, refs []string, answered func()) error {
	var all sync.WaitGroup
	errs := make([]error, len(refs))
	for i, ref := range refs {
		all.Go(func() {
			if errs[i] = n.pull(ctx, ref); errs[i] == nil {
				answered()
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// pullAndCut starts the pulls and asks for the cut at the planned moment.
func (n *node) pullAndCut(ctx context.Context) error {
	w := &watch{asked: len(n.plan.Pull)}
	ended := make(chan error, 1)
	go func() { ended <- n.pullAll(ctx, n.plan.Pull, func() { w.answered.Add(1) }) }()
	var end <-chan time.Time // armed when the moment's event was seen
	before, last := w.look(), Sight{}
	seen := map[string]int{}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		now := w.look()
		if now != last {
			n.tell(Event{Kind: "saw", Saw: &now})
			w.count(seen, before, last, now)
			last = now
		}
		if m := n.plan.Cut; end == nil && (m.After == "pull" || seen[m.After] >= m.Nth) {
			end = time.After(m.Delay)
		}
		select {
		case err := <-ended:
			if err != nil {
				return err
			}
			if ended = nil; end == nil {
				end = time.After(n.plan.Cut.Delay)
			}
		case <-end:
			n.tell(Event{Kind: "cut"})
			return nil
		case <-tick.C:
		}
	}
}

// last sees that everything can be had without repair, and that all of it goes.
func (n *node) last(ctx context.Context) error {
	if err := n.pullAll(ctx, n.plan.Pull, func() {}); err != nil {
		return err
	}
	if err := n.look(ctx, allPulled); err != nil {
		return err
	}
	for _, ref := range n.plan.Pull {
		if err := n.remove(ctx, ref); err != nil {
			return err
		}
	}
	if err := n.look(ctx, allRemoved); err != nil {
		return err
	}
	n.tell(Event{Kind: "done"})
	return nil
}

// watch sees from outside how far the pulls are.
type watch struct {
	asked    int
	answered atomic.Int32
}

func (w *watch) look() Sight {
	s := Sight{Asked: w.asked, Answered: int(w.answered.Load())}
	for _, e := range entries(imageRoot + "/troupe-blobs") {
		if strings.HasSuffix(e, ".partial") {
			s.Partial++
		} else if e != "layers" {
			s.Blobs++
		}
	}
	s.Staged = len(entries(imageRoot+"/troupe-staged")) + len(entries(imageRoot+"/overlay/staging"))
	if layers, err := os.ReadFile(imageRoot + "/overlay-layers/layers.json"); err == nil {
		s.Layers, s.Incomplete = bytes.Count(layers, []byte(`"id":`)), bytes.Count(layers, []byte(`"incomplete":`))
	}
	if images, err := os.ReadFile(imageRoot + "/overlay-images/images.json"); err == nil {
		s.Images = bytes.Count(images, []byte(`"id":`))
	}
	return s
}

// count brings up to date how often what a Moment can follow was seen.
func (w *watch) count(seen map[string]int, before, last, now Sight) {
	seen["blob"] += max(0, now.Partial-last.Partial)
	seen["unpack"] += max(0, now.Incomplete-last.Incomplete) + max(0, now.Staged-last.Staged)
	seen["layer"] = max(seen["layer"], now.Layers-now.Incomplete-before.Layers)
	seen["answer"] = now.Answered
}

func entries(dir string) (names []string) {
	found, _ := filepath.Glob(dir + "/*")
	for _, f := range found {
		names = append(names, filepath.Base(f))
	}
	return names
}

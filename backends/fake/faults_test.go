package fake_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/messages"
)

// script is a hook with virtual time and faults by method. It waits by letting
// time pass, and fails the test when nobody would ever wake it.
type script struct {
	t                   *testing.T
	now                 time.Time
	before, half, after map[string]bool
	asked               []string
	on                  func(fake.Call)
}

func newScript(t *testing.T) *script {
	return &script{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), before: map[string]bool{}, half: map[string]bool{}, after: map[string]bool{}}
}

var errFault = errors.New("injected")

func name(c fake.Call) string { return c.Backend + "." + c.Method }

func (s *script) Now() time.Time { return s.now }

func (s *script) Before(_ context.Context, c fake.Call) error {
	s.now = s.now.Add(time.Millisecond)
	if s.on != nil {
		s.on(c)
	}
	return s.fault(s.before, c)
}

func (s *script) After(_ context.Context, c fake.Call) error { return s.fault(s.after, c) }

func (s *script) fault(faults map[string]bool, c fake.Call) error {
	if faults[name(c)] {
		return errFault
	}
	return nil
}

func (s *script) Half(c fake.Call) bool {
	s.asked = append(s.asked, name(c))
	return s.half[name(c)]
}

func (s *script) Wait(ctx context.Context, w *fake.Waiter) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case w.Woken():
	case w.Until().IsZero():
		s.t.Error("waiting for ever")
		return errFault
	default:
		s.now = w.Until()
	}
	return nil
}

// monitorOf starts the monitor without keeping a connection to it.
func monitorOf(t *testing.T, n *fake.Node) {
	ctx, cancel := context.WithCancel(t.Context())
	err := n.Backends().Runtime.Connect(ctx, func(messages.ProcessState) {}, cancel)
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestAnErrorBeforeHasNoEffectAndAnErrorAfterHasAll(t *testing.T) {
	s := newScript(t)
	n := fake.New(fake.Config{Hook: s})
	pin := func() error {
		_, err := n.Backends().Namespaces.Pin(t.Context(), backends.NamespaceRequest{Pod: id(1), Network: true})
		return err
	}
	s.before["Namespaces.Pin"] = true
	if err := pin(); !errors.Is(err, errFault) || len(n.Empty()) != 0 {
		t.Errorf("got %v, left %v", err, n.Empty())
	}
	s.before["Namespaces.Pin"], s.after["Namespaces.Pin"] = false, true
	if err := pin(); !errors.Is(err, errFault) || len(n.Empty()) != 1 {
		t.Errorf("got %v, left %v", err, n.Empty())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Backends().Namespaces.Unpin(ctx, id(1)); !errors.Is(err, context.Canceled) || len(n.Empty()) != 1 {
		t.Errorf("got %v, left %v", err, n.Empty())
	}
}

// Every call that can be halved is, once; doing it again, and taking all back
// twice, leaves nothing.
func TestEveryHalfCanBeDoneAgainAndTakenBack(t *testing.T) {
	for _, method := range []string{
		"Namespaces.Pin", "Network.Attach", "Files.Make", "Rootfs.Mount", "Bundles.Write", "Runtime.Create",
		"Namespaces.Unpin", "Network.Detach", "Files.Remove", "Rootfs.Unmount", "Runtime.Delete",
	} {
		t.Run(method, func(t *testing.T) {
			s := newScript(t)
			n := fake.New(fake.Config{Hook: s})
			monitorOf(t, n)
			img := pull(t, n, "busybox")
			s.half[method] = true
			_ = up(n, img) // stops at the half
			undo := !slices.Contains(s.asked, method)
			if undo {
				if err := down(n); err == nil {
					t.Fatal("the half was never asked for")
				}
			}
			s.half[method] = false
			if !undo { // a half that was taken back is not done again but undone to its end
				ok(t, up(n, img))
				wantNothingWrong(t, n)
			}
			ok(t, down(n))
			ok(t, down(n))
			wantEmpty(t, n)
			s.half[method] = true
			_ = up(n, img)
			s.half[method] = false
			ok(t, down(n))
			wantEmpty(t, n)
		})
	}
}

// up does the steps of a pod with a container, and stops at the first error.
func up(n *fake.Node, img messages.Image) error {
	b, ctx := n.Backends(), context.Background()
	var spaces messages.Namespaces
	var root string
	var bundle backends.Bundle
	for _, step := range []func() error{
		func() error { return b.Journal.Save(ctx, backends.Key{Pod: id(1)}, []byte("pod")) },
		func() error { _, err := b.Cgroups.Make(ctx, id(1), ""); return err },
		func() error { _, err := b.Files.Make(ctx, backends.FilesRequest{Pod: id(1)}); return err },
		func() (err error) {
			spaces, err = b.Namespaces.Pin(ctx, backends.NamespaceRequest{Pod: id(1), Network: true, UTS: true})
			return err
		},
		func() error {
			_, err := b.Network.Attach(ctx, backends.NetworkRequest{Pod: id(1), NetNS: spaces.Network})
			return err
		},
		func() error { return b.Journal.Save(ctx, backends.Key{Pod: id(1), Container: id(2)}, []byte("c")) },
		func() (err error) {
			root, err = b.Rootfs.Mount(ctx, backends.RootfsRequest{Pod: id(1), Container: id(2), ImageID: img.ID})
			return err
		},
		func() (err error) {
			bundle, err = b.Bundles.Write(ctx, backends.BundleRequest{Pod: id(1), Container: id(2), Rootfs: root, Image: img.Config, Namespaces: spaces})
			return err
		},
		func() error {
			_, err := b.Runtime.Create(ctx, backends.ProcessRequest{Pod: id(1), Container: id(2), Bundle: bundle.Dir})
			return err
		},
		func() error { _, err := b.Runtime.Start(ctx, id(1), id(2)); return err },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// down undoes all, whatever was done, and joins the errors.
func down(n *fake.Node) error {
	b, ctx := n.Backends(), context.Background()
	return errors.Join(
		b.Runtime.Delete(ctx, id(1), id(2)), b.Bundles.Remove(ctx, id(1), id(2)), b.Rootfs.Unmount(ctx, id(1), id(2)),
		b.Journal.Remove(ctx, backends.Key{Pod: id(1), Container: id(2)}), b.Network.Detach(ctx, backends.NetworkRequest{Pod: id(1)}),
		b.Namespaces.Unpin(ctx, id(1)), b.Files.Remove(ctx, id(1)), b.Cgroups.Remove(ctx, id(1)),
		b.Journal.Remove(ctx, backends.Key{Pod: id(1)}))
}

func TestAFetchThatIsCutGoesOnWhereItWas(t *testing.T) {
	s := newScript(t)
	n := fake.New(fake.Config{Hook: s})
	n.AddImage("app", fake.Layer{Name: "l", Size: 1000})
	images, r := n.Backends().Images, backends.PullRequest{Ref: "app"}
	m, err := images.Resolve(t.Context(), r)
	ok(t, err)
	var at []int64
	fetch := func() error {
		return images.Fetch(t.Context(), r, m, m.Layers[0], func(p backends.Progress) { at = append(at, p.Received) })
	}
	s.before["Images.FetchMore"] = true
	if err := fetch(); !errors.Is(err, errFault) {
		t.Errorf("got %v", err)
	}
	s.before["Images.FetchMore"], s.half["Images.Fetch"] = false, true
	wantKind(t, fetch(), messages.RegistryUnavailable)
	s.half["Images.Fetch"] = false
	ok(t, fetch())
	if fmt.Sprint(at) != "[250 375 500 875 1000]" {
		t.Errorf("progress %v", at)
	}
	s.half["Images.Commit"] = true
	if _, err := images.Commit(t.Context(), r, m); err == nil {
		t.Error("a halved commit succeeded")
	}
	s.half["Images.Commit"] = false
	img, err := images.Commit(t.Context(), r, m)
	ok(t, err)
	s.half["Images.Remove"] = true
	if images.Remove(t.Context(), img.ID) == nil {
		t.Error("a halved removal succeeded")
	}
	s.half["Images.Remove"] = false
	ok(t, images.Remove(t.Context(), img.ID))
	wantEmpty(t, n)
}

func TestVirtualTimeIsTheOnlyTime(t *testing.T) {
	s := newScript(t)
	n := fake.New(fake.Config{Hook: s})
	monitorOf(t, n)
	start(t, n, id(1), id(2), "sleep", "36000")
	begun := s.now
	_, err := n.Backends().Runtime.Exec(t.Context(), backends.ExecRequest{Pod: id(1), Container: id(2), Command: []string{"sleep", "3600"}})
	ok(t, err)
	if took := s.now.Sub(begun); took != time.Hour+time.Millisecond {
		t.Errorf("exec took %v", took)
	}
	var told []messages.ProcessState
	ctx, cancel := context.WithCancel(t.Context())
	err = n.Backends().Runtime.Connect(ctx, func(st messages.ProcessState) {
		if told = append(told, st); st.Status == messages.ProcessExited {
			cancel()
		}
	}, func() {})
	if !errors.Is(err, context.Canceled) || len(told) != 2 || !told[1].ExitedAt.Equal(told[1].StartedAt.Add(10*time.Hour)) {
		t.Errorf("%v, told %+v", err, told)
	}
}

func TestTheSameCallsGiveTheSameTranscript(t *testing.T) {
	run := func() string {
		var lines []string
		s := newScript(t)
		n := fake.New(fake.Config{Hook: s, Trace: func(c fake.Call, err error) {
			lines = append(lines, fmt.Sprint(s.now.UnixNano(), " ", c, " ", err))
		}})
		monitorOf(t, n)
		for i := range 50 {
			s.after["Network.Attach"] = i%3 == 0
			_ = up(n, pull(t, n, "busybox"))
			lines = append(append(lines, n.Empty()...), n.Invariants()...)
			for _, h := range n.Backends().Holders() {
				held, err := h.Held(t.Context())
				lines = append(lines, fmt.Sprint(held, err))
			}
			ok(t, down(n))
		}
		return strings.Join(lines, "\n")
	}
	if first, second := run(), run(); first != second {
		t.Error("two runs differ")
	}
}

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
)

// node is a private daemon with all that a test needs around it.
type node struct {
	lab      *harness.Lab
	daemon   *harness.Daemon
	registry *harness.Registry
	crictl   *harness.Crictl
	cri      *harness.CRI
	image    string // busybox, pulled
	digest   string // of its manifest
	imageID  string
}

// shared is the node most tests run on; it is made by the first and ended by
// TestMain.
var shared *node

// theNode gives the shared node, and fails the test if it leaves anything on
// it: the test must remove its pods (t.Cleanup does, see pod).
func theNode(t *testing.T) *node {
	t.Helper()
	if shared == nil {
		shared = newNode(t, nil)
	}
	shared.leavesNothing(t)
	return shared
}

// ownNode gives a node that is the test's alone.
func ownNode(t *testing.T, options func(*harness.DaemonOptions)) *node {
	t.Helper()
	n := newNode(t, options)
	t.Cleanup(func() {
		if err := n.lab.Close(); err != nil {
			t.Errorf("tidying up: %v", err)
		}
	})
	return n
}

func newNode(t *testing.T, options func(*harness.DaemonOptions)) *node {
	t.Helper()
	lab := must(harness.NewLab())(t)
	lab.Abandon = true // a test that fails may leave its pods; leavesNothing has looked before
	n := &node{lab: lab}
	n.registry = must(lab.StartRegistry(t.Context(), harness.RegistryOptions{}))(t)
	network := must(lab.NewNetwork())(t)
	ok(t, network.Configure())
	o := harness.DaemonOptions{Network: network, Insecure: []string{n.registry.Host}}
	if options != nil {
		options(&o)
	}
	n.daemon = must(lab.NewDaemon(o))(t)
	ok(t, n.daemon.Start(t.Context()))
	n.crictl = must(lab.NewCrictl(n.daemon.Socket))(t)
	n.cri = must(harness.Dial(n.daemon.Socket))(t)
	lab.OnClose(func() error { n.cri.Close(); return nil })

	made := must(harness.BuildImage(harness.ImageSpec{
		Cmd: []string{"sleep", "100000"}, Env: []string{"FROM_IMAGE=yes"}, Passwd: "worker:x:1234:1234::/home:/bin/sh\n",
	}))(t)
	n.image = must(n.registry.Push(t.Context(), "lab/busybox", "1", made))(t)
	n.digest, n.imageID = made.Digest(), strings.TrimPrefix(made.ConfigID, "sha256:")
	n.run(t, "pull", n.image)
	return n
}

// leavesNothing compares the node before and after the test.
func (n *node) leavesNothing(t *testing.T) {
	t.Helper()
	look := n.daemon.Surveyor()
	before := must(look.Take())(t)
	t.Cleanup(func() {
		left, err := look.Left(before, 10*time.Second)
		if err != nil {
			t.Errorf("looking at the node: %v", err)
		}
		if len(left) > 0 {
			t.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
		}
		if t.Failed() {
			t.Logf("the daemon's last lines:\n%s", n.daemon.Tail(30))
		}
	})
}

// run runs crictl, which must succeed.
func (n *node) run(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 90*time.Second)
	defer cancel()
	out, err := n.crictl.Run(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// fails runs crictl, which must fail, and gives its complaint.
func (n *node) fails(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 90*time.Second)
	defer cancel()
	out, err := n.crictl.Run(ctx, args...)
	if err == nil {
		t.Fatalf("crictl %s succeeded: %s", strings.Join(args, " "), out)
	}
	return err.Error()
}

// must(f())(t) is f's value; an error ends the test.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition that must come true soon.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("waited 20 s in vain: %s", what)
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func contains(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s lacks %q: %s", what, p, text)
		}
	}
}

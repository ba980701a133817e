package cni_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/cni"
	"github.com/troupe-run/troupe/messages"
)

func TestAPluginThatHangsIsKilledWithItsChildren(t *testing.T) {
	n := newNode(t)
	n.script("hang", `[ "$CNI_COMMAND" = ADD ] || exit 0
sleep 1000 & echo $! >`+n.store+`/child; wait`)
	n.write("10-hang.conf", `{"cniVersion":"1.0.0","name":"hangs","type":"hang"}`)
	b, r := n.backend(), n.pod()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := b.Attach(ctx, r)
	if err == nil || messages.KindOf(err) != messages.Deadline {
		t.Fatalf("got %v, want kind Deadline", err)
	}
	for _, want := range []string{"hang was killed", "shop/web-0", "10-hang.conf"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %q: %v", want, err)
		}
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
	child, err := os.ReadFile(filepath.Join(n.store, "child"))
	ok(t, err)
	if cmdline, err := os.ReadFile("/proc/" + strings.TrimSpace(string(child)) + "/cmdline"); err == nil && strings.Contains(string(cmdline), "sleep") {
		t.Error("its child still runs")
	}
	ok(t, b.Detach(t.Context(), r))
}

// TestHelperDaemon is not a test: it is the daemon that the next one kills.
func TestHelperDaemon(t *testing.T) {
	conf, pod := os.Getenv("TROUPE_TEST_CONF"), os.Getenv("TROUPE_TEST_POD")
	if conf == "" {
		t.Skip("only run by TestDetachWaitsForThePluginsOfADaemonThatWasKilled")
	}
	b := cni.New(cni.Config{ConfDir: conf, PluginDirs: []string{os.Getenv("TROUPE_TEST_PLUGINS")}, CacheDir: os.Getenv("TROUPE_TEST_CACHE")})
	_, err := b.Attach(t.Context(), backends.NetworkRequest{Pod: pod, NetNS: os.Getenv("TROUPE_TEST_NETNS")})
	t.Fatalf("was to be killed before: %v", err)
}

func TestDetachWaitsForThePluginsOfADaemonThatWasKilled(t *testing.T) {
	n := newNode(t)
	n.script("slow", `[ "$CNI_COMMAND" = ADD ] && { echo begun >>`+n.store+`/order; sleep 1; echo added >>`+n.store+`/order; }
[ "$CNI_COMMAND" = DEL ] && echo deleted >>`+n.store+`/order
exit 0`)
	n.write("10-slow.conf", `{"cniVersion":"1.0.0","name":"slow","type":"slow"}`)
	b, r := n.backend(), n.pod()
	daemon := exec.Command("/proc/self/exe", "-test.run=^TestHelperDaemon$")
	daemon.Env = append(os.Environ(), "TROUPE_TEST_CONF="+n.conf, "TROUPE_TEST_PLUGINS="+n.extra, "TROUPE_TEST_CACHE="+n.cache,
		"TROUPE_TEST_NETNS="+r.NetNS, "TROUPE_TEST_POD="+r.Pod)
	ok(t, daemon.Start())
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(n.store, "order")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the plugin was not started")
		}
	}
	ok(t, daemon.Process.Kill())
	_ = daemon.Wait()
	held, err := b.Held(t.Context())
	ok(t, err)
	if len(held) != 1 || held[0].Pod != r.Pod {
		t.Errorf("held: %v", held)
	}
	ok(t, b.Detach(t.Context(), r)) // the daemon that came after
	order, err := os.ReadFile(filepath.Join(n.store, "order"))
	ok(t, err)
	if string(order) != "begun\nadded\ndeleted\n" {
		t.Errorf("order: %q", order)
	}
}

func TestALinkInTheResultsPlaceIsNotReadThrough(t *testing.T) {
	n := newNode(t)
	n.write("10-bridge.conflist", n.bridged("links"))
	b := n.backend()
	for _, place := range []string{".", "results", "results/links-eth0"} {
		r := n.pod()
		at := filepath.Join(n.cache, "pods", r.Pod, place)
		ok(t, os.MkdirAll(filepath.Dir(at), 0o700))
		ok(t, os.Symlink("/dev/zero", at))
		ok(t, b.Detach(t.Context(), r))
		if _, err := os.Lstat(at); err == nil {
			t.Errorf("%s is still there", at)
		}
		_, err := b.Attach(t.Context(), r)
		ok(t, err)
		ok(t, b.Detach(t.Context(), r))
	}
}

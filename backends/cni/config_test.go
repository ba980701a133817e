package cni_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends/cni"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/messages"
)

func TestWithoutConfigurationTheNetworkIsUnavailableUntilThereIsOne(t *testing.T) {
	n := newNode(t)
	missing := filepath.Join(n.conf, "later")
	b, r := n.backend(func(c *cni.Config) { c.ConfDir = missing }), n.pod()
	_, attachErr := b.Attach(t.Context(), r)
	for _, err := range []error{attachErr, b.Status(t.Context())} {
		if err == nil || messages.KindOf(err) != messages.Unavailable || !strings.Contains(err.Error(), "no CNI configuration in "+missing) {
			t.Errorf("got %v", err)
		}
	}
	ok(t, b.GC(t.Context(), func() []string { return nil }))
	ok(t, b.Detach(t.Context(), r))
	ok(t, os.Mkdir(missing, 0o755))
	ok(t, os.WriteFile(filepath.Join(missing, "10.conflist"), []byte(n.bridged("late")), 0o600))
	ok(t, b.Status(t.Context()))
	n.attached(b, r)
}

func TestTheFirstUsableFileWinsAndABrokenOneIsNamed(t *testing.T) {
	n := newNode(t)
	n.write("05-broken.conflist", `{"name": "x", `)
	b := n.backend()
	if err := b.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "05-broken.conflist") {
		t.Errorf("got %v", err)
	}
	n.write("20-second.conflist", n.bridged("second"))
	n.write("10-first.conflist", n.bridged("first", `{"type":"not-there"}`))
	n.write("01-readme.txt", "not a configuration")
	if err := b.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "first") || !strings.Contains(err.Error(), "not-there") {
		t.Errorf("got %v", err)
	}
	named := n.backend(func(c *cni.Config) { c.DefaultNetwork = "second" })
	ok(t, named.Status(t.Context()))
	none := n.backend(func(c *cni.Config) { c.DefaultNetwork = "third" })
	if err := none.Status(t.Context()); err == nil || !strings.Contains(err.Error(), `no CNI configuration named "third"`) {
		t.Errorf("got %v", err)
	}
}

func TestStatusAndGCAreAskedOnlyOfPluginsThatKnowThem(t *testing.T) {
	n := newNode(t)
	n.script("modern", `echo "$CNI_COMMAND" >>`+n.store+`/verbs; printf '%s\n' "$input" >`+n.store+`/$CNI_COMMAND
[ -e `+n.store+`/sick ] && { echo '{"cniVersion":"1.1.0","code":50,"msg":"the daemon of the plugin is down"}'; exit 1; }
exit 0`)
	verbs := func() string { v, _ := os.ReadFile(filepath.Join(n.store, "verbs")); return string(v) }
	b, pod := n.backend(), conformance.ID(t)
	n.write("10.conflist", `{"cniVersion":"1.0.0","name":"old","plugins":[{"type":"modern"}]}`)
	ok(t, b.Status(t.Context()))
	ok(t, b.GC(t.Context(), func() []string { return []string{pod} }))
	if verbs() != "" {
		t.Errorf("an old configuration's plugin was asked: %s", verbs())
	}
	n.write("10.conflist", `{"cniVersion":"1.1.0","name":"new","plugins":[{"type":"modern"}]}`)
	ok(t, b.Status(t.Context()))
	ok(t, b.GC(t.Context(), func() []string { return []string{pod} }))
	if verbs() != "STATUS\nGC\n" {
		t.Errorf("asked: %q", verbs())
	}
	if told, _ := os.ReadFile(filepath.Join(n.store, "GC")); !strings.Contains(string(told), pod) {
		t.Errorf("GC was told %s", told)
	}
	ok(t, os.WriteFile(filepath.Join(n.store, "sick"), nil, 0o600))
	if err := b.Status(t.Context()); messages.KindOf(err) != messages.Unavailable || !strings.Contains(err.Error(), "the daemon of the plugin is down") {
		t.Errorf("got %v", err)
	}
}

func TestAChangeIsNoticedByEventOrByTimer(t *testing.T) {
	for name, reread := range map[string]time.Duration{"event": time.Hour, "timer": 50 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			conf := n.conf
			if name == "timer" { // a directory that is not there yet gives no events
				conf = filepath.Join(n.conf, "later")
			}
			b := n.backend(func(c *cni.Config) { c.ConfDir, c.Reread = conf, reread })
			ctx, cancel := context.WithCancel(t.Context())
			changes, ended := make(chan struct{}, 10), make(chan error)
			go func() { ended <- b.Watch(ctx, func() { changes <- struct{}{} }) }()
			time.Sleep(200 * time.Millisecond) // until it watches
			ok(t, os.MkdirAll(conf, 0o755))
			ok(t, os.WriteFile(filepath.Join(conf, "10.conflist"), []byte(n.bridged("seen")), 0o600))
			select {
			case <-changes:
			case <-time.After(5 * time.Second):
				t.Error("not noticed")
			}
			cancel()
			if err := <-ended; err != context.Canceled {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

func TestPluginsInFilesOfTheirOwnAreUsedAndNotNeededForDetach(t *testing.T) {
	n := newNode(t)
	n.script("logged", `echo "$CNI_COMMAND" >>`+n.store+`/verbs
[ "$CNI_COMMAND" = ADD ] && printf '%s' "$input" | jq .prevResult
exit 0`)
	n.write("10.conflist", n.bridged("folder"))
	ok(t, os.Mkdir(filepath.Join(n.conf, "folder"), 0o755))
	ok(t, os.WriteFile(filepath.Join(n.conf, "folder", "50.conf"), []byte(`{"cniVersion":"1.0.0","name":"folder","type":"logged"}`), 0o600))
	b, r := n.backend(), n.pod()
	_, err := b.Attach(t.Context(), r)
	ok(t, err)
	ok(t, os.RemoveAll(filepath.Join(n.conf, "folder")))
	ok(t, b.Detach(t.Context(), r))
	if v, _ := os.ReadFile(filepath.Join(n.store, "verbs")); string(v) != "ADD\nDEL\n" {
		t.Errorf("verbs %q", v)
	}
}

func TestAPluginThatGivesNoAddressIsAnError(t *testing.T) {
	n := newNode(t)
	n.script("empty", `[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0"}'; exit 0`)
	n.write("10.conf", `{"cniVersion":"1.0.0","name":"empty","type":"empty"}`)
	b, r := n.backend(), n.pod()
	if _, err := b.Attach(t.Context(), r); err == nil || !strings.Contains(err.Error(), "no address") {
		t.Errorf("got %v", err)
	}
	ok(t, b.Detach(t.Context(), r))
}

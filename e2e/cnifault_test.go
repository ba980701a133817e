package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sickPlugin stands in for the bridge plugin and becomes it, unless the pod is
// in the namespace "sick": then it does what the file "mode" beside it says.
const sickPlugin = `#!/bin/sh
here=$(dirname "$0")
case "$CNI_ARGS" in *K8S_POD_NAMESPACE=sick*) mode=$(cat "$here/mode") ;; *) mode=ok ;; esac
while [ "$mode" = hang ]; do sleep 0.1; mode=$(cat "$here/mode"); done
case "$mode$CNI_COMMAND" in
fail*) echo '{"cniVersion":"1.0.0","code":11,"msg":"the lab says no"}'; exit 1 ;;
garbage*) cat >/dev/null; echo '<<< this is no JSON'; exit 0 ;;
crash*) kill -9 $$ ;;
lateADD) %[1]s >/dev/null; echo '{"cniVersion":"1.0.0","code":999,"msg":"too late"}'; exit 1 ;;
esac
exec %[1]s
`

type sickNetwork struct {
	*node
	dir string
}

// sickNode is a node whose network plugin can fail.
func sickNode(t *testing.T) *sickNetwork {
	t.Helper()
	s := &sickNetwork{dir: t.TempDir()}
	bridge := ""
	for _, dir := range harness.PluginDirs {
		if _, err := os.Stat(filepath.Join(dir, "bridge")); err == nil {
			bridge = filepath.Join(dir, "bridge")
			break
		}
	}
	ok(t, os.WriteFile(filepath.Join(s.dir, "lab-sick"), fmt.Appendf(nil, sickPlugin, bridge), 0o755))
	s.mode(t, "ok")
	s.node = ownNode(t, func(o *harness.DaemonOptions) {
		o.Plugins, o.Network.Plugin = s.dir, "lab-sick"
		ok(t, o.Network.Configure())
	})
	return s
}

// mode is changed at once: a plugin that reads half of it would do another thing.
func (s *sickNetwork) mode(t *testing.T, mode string) {
	t.Helper()
	next := filepath.Join(s.dir, "mode.next")
	ok(t, os.WriteFile(next, []byte(mode), 0o644))
	ok(t, os.Rename(next, filepath.Join(s.dir, "mode")))
}

func sick(c *runtime.PodSandboxConfig) { c.Metadata.Namespace = "sick" }

// runWithin is RunPodSandbox with a deadline.
func (n *node) runWithin(t *testing.T, within time.Duration, config *runtime.PodSandboxConfig) (string, time.Duration, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), within)
	defer cancel()
	begin := time.Now()
	r, err := n.cri.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: config})
	return r.GetPodSandboxId(), time.Since(begin), err
}

func TestACNIPluginThatHangsFailsOrTalksNonsenseIsOnlyItsOwnPodsTrouble(t *testing.T) {
	n := sickNode(t)
	n.leavesNothing(t)
	look := n.daemon.Surveyor()
	w := n.witness(t)
	// Where plugins hang, a pod may wait until one of their places is lent.
	healthy := func(during string) {
		t.Helper()
		id, took, err := n.runWithin(t, 30*time.Second, n.podConfig(t))
		ok(t, err)
		if took > witnessPatience+6*time.Second {
			t.Errorf("%s: a healthy pod took %s", during, took)
		}
		n.remove(t, id)
	}
	for _, fault := range []struct {
		mode, said string
		within     time.Duration
	}{
		{"fail", "the lab says no", 30 * time.Second},
		{"garbage", "lab-sick", 30 * time.Second},
		{"crash", "lab-sick", 30 * time.Second},
		{"late", "too late", 30 * time.Second},
		{"hang", "", 8 * time.Second}, // a busy client's own clock may come first, and it says nothing else
	} {
		var before harness.Survey
		w.pause(t, func() { before = must(look.Take())(t) })
		n.mode(t, fault.mode)
		var all sync.WaitGroup
		for range 20 { // more than a lane has places
			config := n.podConfig(t, sick)
			all.Go(func() {
				_, took, err := n.runWithin(t, fault.within, config)
				if took > fault.within+3*time.Second {
					t.Errorf("%s: a deadline of %s ended after %s", fault.mode, fault.within, took)
				}
				refused(t, err, anyCode, fault.said)
			})
		}
		if fault.mode != "hang" {
			all.Wait()
		} else {
			time.Sleep(2 * time.Second)
		}
		healthy(fault.mode)
		all.Wait()
		w.noticed(t, "20 pods whose plugin does this: "+fault.mode)
		n.mode(t, "ok")
		w.pause(t, func() { n.goesAway(t, fault.mode, look, before) })
	}
}

// goesAway waits until nothing is left of the sick pods. Those that hung go on,
// and some of them become ready.
func (n *node) goesAway(t *testing.T, what string, look harness.Surveyor, before harness.Survey) {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		for _, pod := range n.listPods(t, "sick") {
			n.remove(t, pod)
		}
		left, err := look.Left(before, 0)
		ok(t, err)
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: left behind:\n  %s", what, strings.Join(left, "\n  "))
		}
	}
}

// listPods are the pods of a namespace, when none of them is being made any more.
func (n *node) listPods(t *testing.T, namespace string) (ids []string) {
	t.Helper()
	for _, c := range n.allPods(t) {
		if c.Metadata.Namespace == namespace {
			ids = append(ids, c.Id)
		}
	}
	return ids
}

func (n *node) allPods(t *testing.T) []*runtime.PodSandbox {
	t.Helper()
	r, err := n.cri.Runtime.ListPodSandbox(t.Context(), &runtime.ListPodSandboxRequest{})
	ok(t, err)
	return r.Items
}

// A plugin's package is upgraded while pods run, and for a moment the plugin is
// not there, or another network is configured: a pod leaves the network that it
// came into, by the plugin of that name, and waits for it if it must.
func TestAPodLeavesTheNetworkItCameIntoWhenThePluginIsReplaced(t *testing.T) {
	n := sickNode(t)
	n.leavesNothing(t)
	w := n.witness(t)
	plugin := filepath.Join(n.dir, "lab-sick")
	p := n.pod(t, sick)
	address := p.status(t).Network.Ip

	// Replaced while it runs: the ADD that hangs is the old program's.
	n.mode(t, "hang")
	config := n.podConfig(t, sick)
	type outcome struct {
		id  string
		err error
	}
	begun := make(chan outcome, 1)
	go func() {
		id, _, err := n.runWithin(t, time.Minute, config)
		begun <- outcome{id, err}
	}()
	time.Sleep(time.Second)
	text := must(os.ReadFile(plugin))(t)
	ok(t, os.WriteFile(plugin+".new", append(text, "# a newer version\n"...), 0o755))
	ok(t, os.Rename(plugin+".new", plugin))
	n.mode(t, "ok")
	o := <-begun
	ok(t, o.err)
	n.remove(t, o.id)

	// Gone, and another list in its place.
	ok(t, os.Rename(plugin, plugin+".away"))
	n.daemon.Network.Plugin = ""
	ok(t, n.daemon.Network.Configure())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := n.cri.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.id})
	refused(t, err, anyCode, "lab-sick")
	t.Logf("a stop without the plugin: %v", err)
	if addresses := must(filepath.Glob(filepath.Join(n.daemon.Network.Addresses, "*", address)))(t); len(addresses) != 1 {
		t.Errorf("its address is kept in %v", addresses)
	}
	n.remove(t, n.pod(t).id) // the new network serves
	w.noticed(t, "the plugin is not there")
	ok(t, os.Rename(plugin+".away", plugin))
	eventually(t, "the stop goes on by itself", func() bool {
		return len(must(filepath.Glob(filepath.Join(n.daemon.Network.Addresses, "*", address)))(t)) == 0
	})
}

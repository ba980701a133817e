package cni_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/troupe-run/troupe/backends/cni"
)

// FuzzNetworkRecords has a plugin answer what the input says, and puts the input
// in place of what is kept of an attachment: the note of the attempt, the
// plugin's result, the host ports. An answer is an address or an error; whatever
// is kept, the pod can be detached, nothing of it is held then, and it can be
// attached again.
func FuzzNetworkRecords(f *testing.F) {
	const good = `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"10.9.0.2/24","interface":0}]}`
	for which := range byte(16) {
		f.Add([]byte(good), which)
	}
	for _, bad := range []string{
		"", "null", "[]", "{}", `{"cniVersion":"9.9.9"}`, `{"cniVersion":"1.0.0","ips":[{"address":"x"}]}`, `{"cniVersion":"1.0.0","ips":[{"interface":99,"address":"10.9.0.2/24"}]}`,
		`{"cniVersion":"1.0.0","ips":null,"dns":7}`, `[{"hostPort":1}]`, `{"Ports":[{"Port":-1}],"Forwards":[{}]}`, `{"Config":"e30=","NetNS":"/x","Args":[["a"]]}`, "{", "\x00",
		`{"kind":"cniCacheV1","containerId":"x","config":"e30=","ifName":"eth0","networkName":"../x","result":null}`,
	} {
		f.Add([]byte(bad), byte(15))
	}
	f.Fuzz(func(t *testing.T, text []byte, which byte) {
		n := newNode(t)
		answer := filepath.Join(n.extra, "answer")
		n.script("made", `test "$CNI_COMMAND" != ADD || cat `+answer)
		n.write("10.conflist", `{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"made"}]}`)
		b := n.backend(func(c *cni.Config) { c.PluginDirs, c.Log = []string{n.extra}, slog.New(slog.DiscardHandler) })
		r := n.pod()
		// The plugin's answer.
		ok(t, os.WriteFile(answer, text, 0o600))
		if result, err := b.Attach(t.Context(), r); err == nil && len(result.IPs) == 0 {
			t.Error("attached without an address")
		}
		n.damage(r.Pod, text, which)
		if _, err := b.Held(t.Context()); err != nil {
			t.Errorf("what is held: %v", err)
		}
		ok(t, b.Detach(t.Context(), r))
		if held, err := b.Held(t.Context()); err != nil || len(held) > 0 {
			t.Errorf("detached, and still held: %v, %v", held, err)
		}
		ok(t, os.WriteFile(answer, []byte(good), 0o600))
		n.damage(r.Pod, text, which)
		if result, err := b.Attach(t.Context(), r); err != nil || len(result.IPs) == 0 {
			t.Errorf("it cannot be attached again: %v, %v", result.IPs, err)
		}
		ok(t, b.Detach(t.Context(), r))
	})
}

// damage writes text in place of some of a pod's records.
func (n *node) damage(pod string, text []byte, which byte) {
	n.t.Helper()
	for i, file := range []string{"attempts/" + pod, "results/net-" + pod + "-eth0", "ports/" + pod, "results/other-" + pod + "-eth0"} {
		if which>>i&1 == 0 {
			continue
		}
		path := filepath.Join(n.cache, file)
		ok(n.t, os.MkdirAll(filepath.Dir(path), 0o700))
		ok(n.t, os.WriteFile(path, text, 0o600))
	}
}

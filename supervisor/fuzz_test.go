package supervisor

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/actors"
	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/backends/testlog"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// FuzzRecords changes what the journal says of a pod or of its running
// container, with a checksum that fits: a field of it, or all. The next daemon
// starts, no actor panics, and the pod beside it is as it was and can be
// removed.
func FuzzRecords(f *testing.F) {
	for field := range byte(64) {
		f.Add(field, []byte([]string{`"dreaming"`, `null`, `-1`, `{}`}[field>>1&3]))
	}
	for _, value := range []string{`-1`, `["network","x"]`, `{}`, `{"status":"dreaming"}`, `not json`, ``} {
		f.Add(byte(254), []byte(value))
		f.Add(byte(255), []byte(value))
	}
	f.Fuzz(func(t *testing.T, field byte, value []byte) {
		node := fake.New(fake.Config{})
		node.AddImage("registry.local/app:1", fake.Layer{Name: "base", Size: 1000})
		s, _ := started(t, node)
		s.running()
		changed, container := s.pod, s.cont
		s.must(messages.RunPod{Handler: "h", Config: &runtime.PodSandboxConfig{Metadata: &runtime.PodSandboxMetadata{Name: "good", Namespace: "n"}}})
		end(t, s.tree)

		journal := node.Backends().Journal
		records, _, err := journal.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			if r.Pod != changed || (r.Container == container) != (field&1 == 1) {
				continue
			}
			if err := journal.Save(t.Context(), r.Key, otherwise(r.Data, field>>1, value)); err != nil {
				t.Fatal(err)
			}
		}
		again, log := started(t, node)
		good := ""
		for _, p := range again.tree.View().Pods() {
			if p.Config.GetMetadata().GetName() == "good" {
				good = p.ID
			}
		}
		if good == "" {
			t.Fatalf("the other pod is not there:\n%s", log)
		}
		again.must(messages.StopPod{Pod: good})
		again.must(messages.RemovePod{Pod: good})
		// What is wrong shows at the latest when somebody asks for the pod.
		_, _ = again.ask(messages.StopPod{Pod: changed})
		end(t, again.tree)
		if strings.Contains(log.String(), "panic") {
			t.Errorf("a panic:\n%s", log)
		}
	})
}

// otherwise is a record with one field, of all there are at any depth, changed;
// beyond them, it is the value as it is.
func otherwise(record []byte, field byte, value []byte) []byte {
	var fields map[string]any
	if json.Unmarshal(record, &fields) != nil {
		return value
	}
	var to any
	if json.Unmarshal(value, &to) != nil {
		to = string(value)
	}
	left := int(field)
	var change func(m map[string]any) bool
	change = func(m map[string]any) bool {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			if left == 0 {
				m[name] = to
				return true
			}
			left--
			if inner, deep := m[name].(map[string]any); deep && change(inner) {
				return true
			}
		}
		return false
	}
	if !change(fields) {
		return value
	}
	data, err := json.Marshal(fields)
	if err != nil {
		return value
	}
	return data
}

// started is a tree on a node, with its log.
func started(t *testing.T, node *fake.Node) (*stage, *testlog.Log) {
	t.Helper()
	log := &testlog.Log{}
	s := &stage{t: t, node: node}
	settings := actors.DefaultSettings()
	settings.RetryMin, settings.RetryMax, settings.KillPatience = 5*time.Millisecond, 100*time.Millisecond, 20*time.Millisecond
	var err error
	if s.tree, err = Start(t.Context(), Config{Node: node.Backends(), Log: slog.New(slog.NewTextHandler(log, nil)), Limits: DefaultLimits(), Settings: settings}); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	eventually(t, "the monitor is connected", func() bool { return s.tree.View().Runtime().OK })
	return s, log
}

func end(t *testing.T, tree *Tree) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := tree.Shutdown(ctx); err != nil {
		t.Errorf("the actors do not end: %v", err)
	}
}

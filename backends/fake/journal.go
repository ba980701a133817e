package fake

import (
	"context"
	"slices"
	"time"

	"github.com/troupe-run/troupe/backends"
)

type record struct {
	data  []byte
	torn  bool
	saved time.Time
	old   []byte // what was in its place; nil: nothing
}

// unsynced is how long a record may be only in memory.
const unsynced = time.Second

type journalBackend struct{ n *Node }

func (n *Node) recordPath(k backends.Key) string {
	if k.Container == "" {
		return n.podDir(k.Pod) + "/record"
	}
	return n.bundleDir(k) + "/record"
}

// Save replaces the record as a whole, or not at all: it is a rename. Only a
// power cut can tear it.
func (b journalBackend) Save(ctx context.Context, k backends.Key, data []byte) error {
	n, c := b.n, Call{Backend: "Journal", Method: "Save", Pod: k.Pod, Container: k.Container}
	return n.call(ctx, c, func() error {
		if err := n.disk.take(int64(len(data))); err != nil {
			return err
		}
		if old := n.records[k]; old != nil {
			n.disk.give(int64(len(old.data)))
		}
		next := &record{data: slices.Clone(data), saved: n.hook.Now()}
		if old := n.records[k]; old != nil {
			next.old = old.data
		}
		n.records[k] = next
		delete(n.excused, k)
		return nil
	})
}

// TearRecord damages a record, as a power cut or a bad disk does. It says
// whether there is one.
func (n *Node) TearRecord(k backends.Key) (found bool) {
	n.change(func() {
		if r := n.records[k]; r != nil {
			r.torn, found = true, true
		}
	})
	return found
}

// Records are those that are there, sorted.
func (n *Node) Records() (keys []backends.Key) {
	n.change(func() { keys = sortedKeys(n.records) })
	return keys
}

// ReplaceRecord puts something else in a record's place, which the journal takes
// for whole: the record of another version, or of somebody else. It says whether
// there is one. What it stood for is excused, as that of a torn record.
func (n *Node) ReplaceRecord(k backends.Key, data []byte) (found bool) {
	n.change(func() {
		if r := n.records[k]; r != nil {
			n.disk.used += int64(len(data)) - int64(len(r.data))
			r.data, r.old, r.saved, found = slices.Clone(data), nil, time.Time{}, true
			n.excused[k] = true
		}
	})
	return found
}

// Loss is what a power cut does to a record that was not on the disk yet.
type Loss int

// The kinds of loss.
const (
	Kept  Loss = iota // the disk was quick
	Torn              // its name is there, its data is not
	Older             // the record before is there, or none
)

// PowerCut reboots the node; lost says what becomes of the records that were not
// on the disk yet.
func (n *Node) PowerCut(lost func(backends.Key) Loss) {
	now := n.hook.Now()
	var young []backends.Key
	n.change(func() {
		for _, k := range sortedKeys(n.records) {
			if now.Sub(n.records[k].saved) < unsynced { // StepClock keeps them together
				young = append(young, k)
			}
		}
	})
	n.Reboot()
	for _, k := range young {
		switch lost(k) {
		case Torn:
			n.TearRecord(k)
		case Older:
			n.change(func() { n.fallBack(k) })
		}
	}
}

// fallBack gives back the record before. What has come since has none then, or
// one that does not know of it, and is excused.
func (n *Node) fallBack(k backends.Key) {
	old := n.records[k].old
	n.forget(k)
	n.rolled[k] = true
	if old != nil {
		n.disk.used += int64(len(old))
		n.records[k] = &record{data: old}
	}
}

func (b journalBackend) Remove(ctx context.Context, k backends.Key) error {
	n, c := b.n, Call{Backend: "Journal", Method: "Remove", Pod: k.Pod, Container: k.Container}
	return n.call(ctx, c, func() error {
		n.forget(k)
		delete(n.excused, k)
		return nil
	})
}

func (n *Node) forget(k backends.Key) {
	if r := n.records[k]; r != nil {
		n.disk.give(int64(len(r.data)))
		delete(n.records, k)
	}
}

type loaded struct {
	records []backends.Record
	damaged []string
}

// Load puts torn records aside, and names containers that have something and no
// record. What they stood for has no owner from then on
// and is excused from the invariants until it is swept.
func (b journalBackend) Load(ctx context.Context) ([]backends.Record, []string, error) {
	return b.load(ctx, "")
}

// LoadPod is Load of one pod.
func (b journalBackend) LoadPod(ctx context.Context, pod string) ([]backends.Record, []string, error) {
	if err := backends.CheckID("pod", pod); err != nil {
		return nil, nil, err
	}
	return b.load(ctx, pod)
}

func (b journalBackend) load(ctx context.Context, pod string) ([]backends.Record, []string, error) {
	n := b.n
	l, err := ask(ctx, n, Call{Backend: "Journal", Method: "Load", Pod: pod}, func() (l loaded, err error) {
		for _, k := range n.recordless(pod) {
			l.damaged = append(l.damaged, n.recordPath(k)+": is not there, and what the container has is")
		}
		for _, k := range keysOf(n.records, pod) {
			r := n.records[k]
			if r.torn {
				l.damaged = append(l.damaged, n.recordPath(k)+": torn: its checksum does not match")
				n.forget(k)
				n.excused[k] = true
				continue
			}
			l.records = append(l.records, backends.Record{Key: k, Data: slices.Clone(r.data)})
		}
		return l, nil
	})
	return l.records, l.damaged, err
}

// recordless are the containers, of a pod or of all (""), with a directory and
// without a record in it.
func (n *Node) recordless(pod string) (keys []backends.Key) {
	keys = slices.Concat(keysOf(n.bundles, pod), keysOf(n.roots, pod), keysOf(n.volumes, pod))
	keys = slices.DeleteFunc(keys, func(k backends.Key) bool { return k.Container == k.Pod || n.records[k] != nil })
	slices.SortFunc(keys, compareKeys)
	return slices.Compact(keys)
}

// keysOf are the keys of a pod, or of all (""), sorted.
func keysOf[V any](m map[backends.Key]V, pod string) (keys []backends.Key) {
	for k := range m {
		if pod == "" || k.Pod == pod {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, compareKeys)
	return keys
}

func (b journalBackend) Held(ctx context.Context) ([]backends.Held, error) {
	n := b.n
	return ask(ctx, n, Call{Backend: "Journal", Method: "Held"}, func() ([]backends.Held, error) { return n.heldRecords(), nil })
}

func (n *Node) heldRecords() (held []backends.Held) {
	for _, k := range sortedKeys(n.records) {
		held = append(held, backends.Held{Kind: "record", Pod: k.Pod, Container: k.Container, Name: n.recordPath(k)})
	}
	return held
}

func (b journalBackend) Drop(ctx context.Context, h backends.Held) error {
	return b.Remove(ctx, backends.Key{Pod: h.Pod, Container: h.Container})
}

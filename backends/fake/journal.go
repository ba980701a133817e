package fake

import (
	"context"
	"path"
	"slices"

	"github.com/troupe-run/troupe/backends"
)

type record struct {
	data []byte
	torn bool
}

type journalBackend struct{ n *Node }

func (n *Node) recordPath(k backends.Key) string {
	if k.Container == "" {
		return path.Join(n.podDir(k.Pod), "record")
	}
	return path.Join(n.bundleDir(k), "record")
}

// Save replaces the record as a whole, or not at all. Only when it is halved
// the record is torn, as after a power cut: the next Load puts it aside.
func (b journalBackend) Save(ctx context.Context, k backends.Key, data []byte) error {
	n, c := b.n, Call{Backend: "Journal", Method: "Save", Pod: k.Pod, Container: k.Container}
	return n.call(ctx, c, func() error {
		if err := n.disk.take(int64(len(data))); err != nil {
			return err
		}
		if old := n.records[k]; old != nil {
			n.disk.give(int64(len(old.data)))
		}
		n.records[k] = &record{data: slices.Clone(data)}
		delete(n.excused, k)
		if n.hook.Half(c) {
			n.records[k].torn = true
			return half("the record is torn")
		}
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

// Load puts torn records aside. What they stood for has no owner from then on
// and is excused from the invariants until it is swept.
func (b journalBackend) Load(ctx context.Context) ([]backends.Record, []string, error) {
	n := b.n
	l, err := ask(ctx, n, Call{Backend: "Journal", Method: "Load"}, func() (l loaded, err error) {
		for _, k := range sortedKeys(n.records) {
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

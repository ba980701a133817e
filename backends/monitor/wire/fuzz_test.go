package wire

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"
)

// FuzzFrame reads frames of strangers' bytes: each is read or refused, and the
// memory it takes is in proportion to what has come, whatever was announced.
func FuzzFrame(f *testing.F) {
	whole, err := Encode(Frame{ID: 7, Op: OpExec}, Exec{Ref: Ref{Pod: "p"}, Command: []string{"a"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(append(whole, whole...))
	f.Add(binary.BigEndian.AppendUint32(nil, MaxFrame))
	f.Add(binary.BigEndian.AppendUint32(nil, MaxFrame+1))
	f.Add(append(binary.BigEndian.AppendUint32(nil, MaxFrame), `{"err":{"kind":1}}`...))
	f.Add(append(binary.BigEndian.AppendUint32(nil, 4), "null"...))
	f.Fuzz(func(t *testing.T, data []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for r := bytes.NewReader(data); ; {
			frame, err := Read(r)
			if err != nil {
				break
			}
			again, err := Encode(frame, nil)
			if err != nil {
				t.Fatalf("what was read cannot be written: %v", err)
			}
			if back, err := Read(bytes.NewReader(again)); err != nil || back.ID != frame.ID || back.Op != frame.Op {
				t.Fatalf("%+v comes back as %+v, %v", frame, back, err)
			}
		}
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20+100*uint64(len(data)) {
			t.Errorf("%d bytes took %d of memory", len(data), took)
		}
	})
}

package blackout

import (
	"bytes"
	"math/rand/v2"
	"net"
	"testing"
)

func fill(b byte) []byte { return bytes.Repeat([]byte{b}, block) }

func written(t *testing.T, d *Disk, b byte, n int64) {
	t.Helper()
	if err := d.Write(fill(b), n*block); err != nil {
		t.Fatal(err)
	}
}

func at(t *testing.T, d *Disk, n int64) byte {
	t.Helper()
	b := make([]byte, 1)
	if err := d.Read(b, n*block); err != nil {
		t.Fatal(err)
	}
	return b[0]
}

func TestOnlyWhatWasFlushedIsSureToSurviveACut(t *testing.T) {
	for _, s := range []Survival{Lost, Kept, Mixed} {
		d := NewDisk(make([]byte, 8*block))
		written(t, d, 1, 0)
		written(t, d, 1, 1)
		if err := d.Flush(); err != nil {
			t.Fatal(err)
		}
		written(t, d, 2, 1)
		written(t, d, 3, 1)
		written(t, d, 4, 2)
		if err := d.Harden(2*block, block); err != nil {
			t.Fatal(err)
		}
		d.Cut()
		if d.Write(fill(9), 0) == nil || d.Flush() == nil || d.Read(make([]byte, 1), 0) == nil {
			t.Errorf("%s: the disk works without power", s)
		}
		d.On(s, rand.New(rand.NewPCG(1, 1)))
		got := at(t, d, 1)
		if at(t, d, 0) != 1 || at(t, d, 2) != 4 {
			t.Errorf("%s: flushed blocks are %d and %d, want 1 and 4", s, at(t, d, 0), at(t, d, 2))
		}
		if s == Lost && got != 1 || s == Kept && got != 3 || got < 1 || got > 3 {
			t.Errorf("%s: the block that was written twice since the flush is %d", s, got)
		}
	}
}

func TestAMixedSurvivalLeavesEachOfABlocksContents(t *testing.T) {
	seen := map[byte]int{}
	for seed := range uint64(100) {
		d := NewDisk(fill(1))
		written(t, d, 2, 0)
		written(t, d, 3, 0)
		d.Cut()
		d.On(Mixed, rand.New(rand.NewPCG(seed, 1)))
		seen[at(t, d, 0)]++
	}
	if len(seen) != 3 {
		t.Errorf("of 1, 2 and 3 there were %v", seen)
	}
}

func TestAWriteOfPartOfABlockKeepsTheRest(t *testing.T) {
	d := NewDisk(append(fill(1), fill(1)...))
	if err := d.Write(fill(2), block/2); err != nil {
		t.Fatal(err)
	}
	all := make([]byte, 2*block)
	if err := d.Read(all, 0); err != nil {
		t.Fatal(err)
	}
	want := append(append(bytes.Repeat([]byte{1}, block/2), fill(2)...), bytes.Repeat([]byte{1}, block/2)...)
	if !bytes.Equal(all, want) {
		t.Error("the write has changed more or less than it covers")
	}
	if d.Write(fill(2), 3*block/2) == nil {
		t.Error("a write beyond the end is accepted")
	}
}

func TestADiskWithoutPowerHangsUp(t *testing.T) {
	ours, theirs := net.Pipe()
	d := NewDisk(fill(1))
	ended := make(chan error, 1)
	go func() { ended <- serve(theirs, d); theirs.Close() }()
	s := &session{conn: ours, in: nil, disk: nil}
	greeting := make([]byte, 18)
	if _, err := ours.Read(greeting); err != nil {
		t.Fatal(err)
	}
	if err := s.put(uint32(1), optionMagic, optionGo, uint32(0)); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Read(make([]byte, 52)); err != nil {
		t.Fatal(err)
	}
	d.Cut()
	if err := s.put(requestMagic, uint16(0), flush, uint64(1), int64(0), uint32(0)); err != nil {
		t.Fatal(err)
	}
	if n, err := ours.Read(make([]byte, 16)); err == nil {
		t.Errorf("a flush without power is answered with %d bytes", n)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

//go:build linux && cgo

package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestAnOOMKillIsKnownAlsoWhenTheCgroupIsGone has files in the place of
// memory.events; one that has gone is a directory, which cannot be read either.
func TestAnOOMKillIsKnownAlsoWhenTheCgroupIsGone(t *testing.T) {
	const none, one = "low 0\nmax 7\noom 1\noom_kill 0\noom_group_kill 0\n", "low 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n"
	for what, c := range map[string]struct {
		own, above string // at the end; "" is gone
		looked     bool   // between the change above and the end
		bySIGKILL  bool
		want       bool
	}{
		"killed":                              {own: one, above: one, bySIGKILL: true, want: true},
		"a child was, init ended by itself":   {own: one, above: one, want: true},
		"a neighbour was":                     {own: none, above: one, bySIGKILL: true},
		"killed, and the cgroup has gone":     {above: one, bySIGKILL: true, want: true},
		"ended by itself, and it has gone":    {above: one},
		"killed by somebody, and it has gone": {above: none, bySIGKILL: true},
		"a neighbour before our SIGKILL":      {above: one, looked: true, bySIGKILL: true},
		"both have gone":                      {bySIGKILL: true},
	} {
		dir := t.TempDir()
		file := func(name, content string) *os.File {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		w := &oomWatch{file: file("own", none), above: file("above", none)}
		w.look()
		gone, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		w.above = gone
		if c.above != "" {
			w.above = file("above", c.above)
		}
		if c.looked {
			w.look()
		}
		w.file = gone
		if c.own != "" {
			w.file = file("own", c.own)
		}
		if got := w.killed(c.bySIGKILL); got != c.want {
			t.Errorf("%s: killed is %v", what, got)
		}
	}
	var nobody *oomWatch
	if nobody.killed(true) {
		t.Error("without a file nothing is known")
	}
}

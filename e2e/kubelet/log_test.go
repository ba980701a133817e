//go:build kubelet

package kubelet

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLogsByTheKubelet(t *testing.T) {
	p := theNode(t).pod(t, `
restartPolicy: Never
containers: [{name: a, image: IMAGE, command: [sh, -c, "echo one; sleep 0.2; echo two >&2; sleep 0.2; printf 'no newline'"]}]
`)
	p.until(t, "the container ends", func(s *status) bool { return s.of("a").ended() != nil })
	equal(t, "the log", p.log(t, "a", ""), "one\ntwo\nno newline")
	equal(t, "the last line but one and the last", p.log(t, "a", "tailLines=2"), "two\nno newline")
	equal(t, "the first bytes", p.log(t, "a", "limitBytes=3"), "one")
	stamp, text, _ := strings.Cut(p.log(t, "a", "timestamps=true&tailLines=1"), " ")
	equal(t, "the text after a time stamp", text, "no newline")
	if at, err := time.Parse(time.RFC3339Nano, stamp); err != nil || time.Since(at) > 10*time.Minute {
		t.Errorf("the time stamp is %q", stamp)
	}
}

func TestALogIsFollowedToItsEnd(t *testing.T) {
	p := theNode(t).pod(t, `
restartPolicy: Never
containers: [{name: a, image: IMAGE, command: [sh, -c, "i=0; while [ $i -lt 30 ]; do echo line $i; i=$((i+1)); sleep 0.1; done"]}]
`)
	p.until(t, "the container has begun", func(s *status) bool { return s.of("a").State.Running != nil || s.of("a").ended() != nil })
	ctx, cancel := context.WithTimeout(background, time.Minute)
	defer cancel()
	out, err := p.kubelet.Get(ctx, fmt.Sprintf("/containerLogs/lab/%s/a?follow=true", p.fullName()))
	ok(t, err) // it ends because the container does
	lines := strings.Split(strings.TrimSpace(out), "\n")
	equal(t, "lines", len(lines), 30)
	equal(t, "the last", lines[len(lines)-1], "line 29")
}

func TestALongLineComesBackWhole(t *testing.T) {
	p := theNode(t).pod(t, `
restartPolicy: Never
containers: [{name: a, image: IMAGE, command: [sh, -c, "head -c 50000 /dev/zero | tr '\\0' x; echo; echo end"]}]
`)
	p.until(t, "the container ends", func(s *status) bool { return s.of("a").ended() != nil })
	equal(t, "the log", p.log(t, "a", ""), strings.Repeat("x", 50000)+"\nend")
}

// The shared node's kubelet rotates at 64 KiB and keeps all there is.
func TestLogRotationLosesNothing(t *testing.T) {
	p := theNode(t).pod(t, `
containers: [{name: a, image: IMAGE, command: [sh, -c, "i=0; while [ $i -lt 6000 ]; do echo $i ...............................................................................; i=$((i+1)); [ $((i % 20)) = 0 ] && sleep 0.04; done; echo all; exec sleep 100000"]}]
`)
	p.ready(t)
	dir := filepath.Join(p.kubelet.PodLogs, fmt.Sprintf("lab_%s_%s", p.fullName(), p.uid), "a")
	eventually(t, "everything is written", func() bool {
		lines, _ := rotated(dir)
		return len(lines) > 0 && lines[len(lines)-1] == "all"
	})
	lines, files := rotated(dir)
	if files < 3 {
		t.Errorf("500 KiB at 64 KiB a file are in %d files: nothing was rotated", files)
	}
	for i, line := range lines[:len(lines)-1] {
		if number, _, _ := strings.Cut(line, " "); number != fmt.Sprint(i) {
			t.Fatalf("line %d over all files is %.20q: something was lost or doubled", i, line)
		}
	}
	equal(t, "lines", len(lines), 6001)
	equal(t, "the end of the log by the kubelet", p.log(t, "a", "tailLines=1"), "all")
}

// rotated is the text of all files of a rotated log, oldest first.
func rotated(dir string) (lines []string, files int) {
	names, _ := filepath.Glob(filepath.Join(dir, "0.log.*"))
	names = slices.DeleteFunc(names, func(n string) bool { return strings.HasSuffix(n, ".tmp") })
	slices.Sort(names) // the suffix is the time
	for _, name := range append(names, filepath.Join(dir, "0.log")) {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		var r io.Reader = f
		if strings.HasSuffix(name, ".gz") {
			if r, err = gzip.NewReader(f); err != nil {
				continue
			}
		}
		text, _ := io.ReadAll(r)
		_ = f.Close()
		files++
		for line := range strings.Lines(string(text)) {
			if parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4); len(parts) == 4 {
				lines = append(lines, parts[3])
			}
		}
	}
	return lines, files
}

func TestTerminationMessages(t *testing.T) {
	n := theNode(t)
	for name, c := range map[string]struct{ fields, command, want string }{
		"from the usual file":              {"", "echo bad luck > /dev/termination-log; exit 4", "bad luck"},
		"from another file":                {"terminationMessagePath: /tmp/why, ", "echo worse luck > /tmp/why; exit 4", "worse luck"},
		"from the log when it failed":      {"terminationMessagePolicy: FallbackToLogsOnError, ", "echo last words; exit 4", "last words"},
		"not from the log when it did not": {"terminationMessagePolicy: FallbackToLogsOnError, ", "echo last words; exit 0", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := n.pod(t, "restartPolicy: Never\ncontainers: [{name: a, image: IMAGE, "+c.fields+"command: [sh, -c, "+quote(c.command)+"]}]")
			s := p.until(t, "the container ends", func(s *status) bool { return s.of("a").ended() != nil })
			equal(t, "the message", strings.TrimSpace(s.of("a").ended().Message), c.want)
		})
	}
}

//go:build linux && cgo

package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// spooled is a pipe whose bytes go through a spool into a log.
type spooled struct {
	t       *testing.T
	dir     string
	logPath string
	r, w    *os.File
	w0      *lines
	said    *bytes.Buffer
}

func newSpooled(t *testing.T, dir string) *spooled {
	s := &spooled{t: t, dir: dir, logPath: filepath.Join(t.TempDir(), "log"), said: &bytes.Buffer{}}
	var err error
	if s.r, s.w, err = pipe(); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(int(s.r.Fd()), true); err != nil {
		t.Fatal(err)
	}
	s.begin()
	t.Cleanup(func() { s.r.Close(); s.w.Close() })
	return s
}

// begin is a new monitor's.
func (s *spooled) begin() {
	s.t.Helper()
	log := slog.New(slog.NewTextHandler(s.said, nil))
	out, err := openLog(s.logPath, log)
	if err != nil {
		s.t.Fatal(err)
	}
	spool, err := openSpool(filepath.Join(s.dir, "spool"), log)
	if err != nil {
		s.t.Fatal(err)
	}
	s.w0 = &lines{log: out, name: "stdout", spool: spool}
	for _, step := range []func() error{s.w0.mend, s.w0.feed} {
		if err := step(); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *spooled) move(text string) []byte {
	s.t.Helper()
	if _, err := io.WriteString(s.w, text); err != nil {
		s.t.Fatal(err)
	}
	buf := make([]byte, readSize)
	n, err := s.w0.spool.fetch(int(s.r.Fd()), buf)
	if err != nil {
		s.t.Fatal(err)
	}
	return buf[:n]
}

func (s *spooled) log() []byte {
	data, err := os.ReadFile(s.w0.log.path)
	if err != nil {
		s.t.Fatal(err)
	}
	return data
}

func (s *spooled) texts() (all []string) {
	for line := range strings.Lines(string(s.log())) {
		all = append(all, strings.TrimSpace(line[len(timeFormat)-len("07:00"):]))
	}
	return all
}

// Whatever part of a batch is in the log when the monitor dies, the next one
// writes the rest of it: the same bytes.
func TestABatchThatWasCutOffIsMadeWholeFromAnyByte(t *testing.T) {
	s := newSpooled(t, t.TempDir())
	s.w0.take(s.move("before\nha"))
	s.w0.take(s.move("lf\none\ntwo\nrest"))
	whole, h := s.log(), *s.w0.spool.head
	for there := h.before; there <= int64(len(whole)); there++ {
		head := s.w0.spool.head
		head.logged, head.to, head.at, head.before, head.dev, head.ino = 7, h.to, h.at, h.before, h.dev, h.ino // 7: behind "before\n"
		s.w0.spool.close()
		s.w0.log.close()
		if err := os.Truncate(s.w0.log.path, there); err != nil {
			t.Fatal(err)
		}
		s.begin()
		if got := s.log(); !bytes.Equal(got, whole) {
			t.Fatalf("with %d bytes of the batch there: %q, want %q", there-h.before, got, whole)
		}
		if string(s.w0.half) != "rest" {
			t.Fatalf("the half line is %q", s.w0.half)
		}
		if err := os.WriteFile(s.w0.log.path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestASpoolBeginsAnewWhenItIsLongAndLosesNothing(t *testing.T) {
	spoolMost = 3 * spoolStart
	defer func() { spoolMost = 1 << 40 }()
	s := newSpooled(t, t.TempDir())
	for i := range 3000 {
		s.w0.take(s.move(fmt.Sprintf("line %d\n", i)))
		s.w0.spool.free(true)
		if s.w0.spool.size > spoolMost+100 {
			t.Fatalf("it has %d bytes", s.w0.spool.size)
		}
		if i%700 == 300 { // also when the monitor dies between the steps of it
			if err := unix.Ftruncate(s.w0.spool.fd, spoolStart); err != nil {
				t.Fatal(err)
			}
			s.w0.spool.close()
			s.begin()
		}
	}
	for i, text := range s.texts() {
		if text != fmt.Sprintf("stdout F line %d", i) {
			t.Fatalf("line %d: %q", i, text)
		}
	}
	if n := len(s.texts()); n != 3000 {
		t.Errorf("%d lines", n)
	}
}

func TestAFullFileSystemOfTheSpoolStopsNothingAndIsTriedAgain(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := newSpooled(t, dir)
	filler := filepath.Join(dir, "filler")
	_ = os.WriteFile(filler, make([]byte, 16<<10), 0o600) // as much as there is room for
	for i := range 100 {
		s.w0.take(s.move(fmt.Sprintf("line %d %s\n", i, strings.Repeat("x", 300))))
	}
	if s.w0.spool.head.plain == 0 || strings.Count(s.said.String(), "level=ERROR") != 1 {
		t.Errorf("plain %d; said %s", s.w0.spool.head.plain, s.said)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond)
	s.w0.take(s.move("again\n"))
	if s.w0.spool.head.plain != 0 || s.w0.spool.head.logged != int64(len("again\n")) {
		t.Errorf("not back: %+v", *s.w0.spool.head)
	}
	texts := s.texts()
	if len(texts) != 101 || texts[100] != "stdout F again" || !strings.HasPrefix(texts[57], "stdout F line 57 x") {
		t.Errorf("%d lines", len(texts))
	}
}

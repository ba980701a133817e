package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func decoder(r io.Reader) *json.Decoder { return json.NewDecoder(r) }
func encoder(w io.Writer) *json.Encoder { return json.NewEncoder(w) }

// counted is what is found in a log of numbered lines.
type counted struct {
	lines, lost, doubled int // lost in bytes
	next                 int
	begin                string // of a line that is not whole yet
}

// take counts what a log holds further: lines "<name> 0", "<name> 1", ….
func (c *counted) take(name, text string) error {
	for line := range strings.Lines(text) {
		// <time> <stream> <P or F> <content>: the format of CRI's logs.
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(fields) < 4 || !strings.HasSuffix(line, "\n") {
			return fmt.Errorf("a log holds the torn line %q", line)
		}
		if fields[2] == "P" {
			c.begin += fields[3]
			continue
		}
		content := c.begin + strings.TrimSuffix(fields[3], "\r") // a terminal's
		c.begin = ""
		number, ours := strings.CutPrefix(content, name+" ")
		n, err := strconv.Atoi(number)
		if !ours || err != nil {
			return fmt.Errorf("a log holds %q, which nobody has written", content)
		}
		c.saw(name, n)
	}
	return nil
}

func (c *counted) saw(name string, n int) {
	c.lines++
	if n < c.next {
		c.doubled++
		return
	}
	c.missing(name, n)
	c.next = n + 1
}

// missing counts the lines before n that have not come.
func (c *counted) missing(name string, n int) {
	for ; c.next < n; c.next++ {
		c.lost += len(name) + len(strconv.Itoa(c.next)) + 2
	}
}

// truth is what a container wrote down of its own end: how many lines it wrote
// and what it exits with. There is none when it was killed.
type truth struct {
	told  bool
	lines int
	code  int32
}

func truthOf(path string) truth {
	text, err := os.ReadFile(path)
	var t truth
	if err == nil {
		n, _ := fmt.Sscan(string(text), &t.lines, &t.code)
		t.told = n == 2
	}
	return t
}

// Exit codes that can be true of a container that wrote nothing down.
const (
	killed     = 137
	startError = 128
)

// judgeExit compares what is told about an exit with what happened. A StartError
// is no exit: the command never ran.
func judgeExit(r *result, what string, s *runtime.ContainerStatus, t truth) {
	told := fmt.Sprintf("%s exited with %d (%s %s)", what, s.ExitCode, s.Reason, s.Message)
	switch {
	case s.Reason == "Unknown":
		r.Unknown++
		if s.ExitCode != -1 {
			r.Invented = append(r.Invented, told+", which means something")
		}
	case t.told && s.ExitCode != t.code:
		r.Invented = append(r.Invented, fmt.Sprintf("%s, in truth with %d", told, t.code))
	case !t.told && s.ExitCode != killed && (s.ExitCode != startError || s.Reason != "StartError"):
		r.Invented = append(r.Invented, told+", and nobody knows of such an end")
	}
}

// judgeLog compares a log (its parts oldest first) with what was written.
func judgeLog(r *result, name string, t truth, parts ...string) error {
	var c counted
	for _, path := range parts {
		text, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		if err := c.take(name, string(text)); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if t.told {
		c.missing(name, t.lines)
		if c.next > t.lines {
			return fmt.Errorf("the log of %s has line %d, and %d were written", name, c.next-1, t.lines)
		}
	}
	r.Lost += c.lost
	r.Doubled += c.doubled
	return nil
}

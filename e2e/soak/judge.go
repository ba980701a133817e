package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// judge compares what a container was told to do with what is told of it: how
// it ended, and each byte that it printed.
func (w *work) judge(s *runtime.ContainerStatus) {
	orphaned := w.node.monitorKills() != w.kills
	switch {
	case s.Reason == "Unknown" && s.ExitCode == -1: // the truth, where the kernel cannot tell
		w.tally.add(&w.tally.unknown)
		if w.bytes || !orphaned {
			w.tally.find("how container %s ended is not known", w.id)
		}
	case s.ExitCode == w.code:
	case w.killed && s.ExitCode == 137:
		return // what it wrote last it never wrote
	case !w.bytes && orphaned && s.ExitCode == 141:
		return // SIGPIPE: its pipes went with the monitor
	default:
		w.tally.add(&w.tally.invented)
		w.tally.find("container %s ended with %d, and exit code %d and reason %q are told (%s)", w.id, w.code, s.ExitCode, s.Reason, s.Message)
	}
	if w.bytes || !orphaned {
		w.judgeLog()
	}
}

// judgeLog counts the bytes that are not in the log, or twice.
func (w *work) judgeLog() {
	text, err := w.printed()
	if err != nil {
		w.tally.find("log of container %s: %v", w.id, err)
		return
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	said, ended := strings.CutPrefix(lines[len(lines)-1], "end ")
	wrote, err := strconv.Atoi(said)
	if !ended || err != nil || !w.service && wrote != w.lines {
		w.lose(int64(len(lines[len(lines)-1])+1), "its last line is %q, it was to write %d (0: until told to end)", lines[len(lines)-1], w.lines)
		wrote = w.lines
	}
	if w.service && !ended {
		wrote = len(lines)
	}
	var want strings.Builder
	for i := range wrote {
		fmt.Fprintf(&want, "%d%s\n", i+1, padding)
	}
	fmt.Fprintf(&want, "end %d\n", wrote)
	w.tally.mu.Lock()
	w.tally.checked += int64(want.Len())
	w.tally.mu.Unlock()
	if text == want.String() {
		return
	}
	seen := map[string]int{}
	for _, l := range lines {
		seen[l]++
	}
	bad, first := int64(0), ""
	for l := range strings.Lines(want.String()) {
		l = strings.TrimSuffix(l, "\n")
		if times := seen[l]; times != 1 {
			bad += int64(len(l) + 1)
			if first == "" {
				first = fmt.Sprintf("line %q is there %d times", l, times)
			}
		}
		delete(seen, l)
	}
	for l := range seen {
		bad += int64(len(l) + 1)
		if first == "" {
			first = fmt.Sprintf("line %q was never written", l)
		}
	}
	w.lose(max(bad, 1), "%s", first)
}

func (w *work) lose(n int64, format string, args ...any) {
	w.tally.mu.Lock()
	w.tally.lost += n
	w.tally.mu.Unlock()
	w.tally.find("container %s (%s): %d bytes are not in its log once: %s", w.id, w.podConfig.Metadata.Name, n, fmt.Sprintf(format, args...))
}

// printed is the text of all the container's log files, in order.
func (w *work) printed() (string, error) {
	var out strings.Builder
	for _, path := range w.logs {
		raw, err := os.ReadFile(path)
		if os.IsNotExist(err) && path == w.logs[len(w.logs)-1] && len(w.logs) > 1 {
			continue // it ended before the log was reopened
		}
		if err != nil {
			return "", err
		}
		for line := range bytes.Lines(raw) { // time, stream, tag, text
			parts := bytes.SplitN(line, []byte(" "), 4)
			if len(parts) != 4 || line[len(line)-1] != '\n' {
				return "", fmt.Errorf("%s has a torn line: %q", path, line)
			}
			out.Write(bytes.TrimSuffix(parts[3], []byte("\n")))
			if string(parts[2]) == "F" {
				out.WriteByte('\n')
			}
		}
	}
	return out.String(), nil
}

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	debugv1 "github.com/troupe-run/troupe/messages/debugv1"
	"golang.org/x/sys/unix"
)

// watchEvery is how often a watch looks.
const watchEvery = 200 * time.Millisecond

// watchPulls shows the pulls until ctx ends or the daemon does.
func watchPulls(ctx context.Context, c debugv1.ImagesClient, out io.Writer) error {
	show := newLines(out).show
	if f, ok := out.(*os.File); ok {
		if _, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			show = (&screen{out: f}).show
		}
	}
	begun := time.Now()
	for {
		r, err := c.Pulls(ctx, &debugv1.PullsRequest{})
		if err != nil {
			return err
		}
		for len(r.Ended) > 0 && r.Ended[0].GetSince().AsTime().Before(begun) {
			r.Ended = r.Ended[1:]
		}
		if err := show(r); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(watchEvery):
		}
	}
}

// lines writes a line for each change.
type lines struct {
	out  io.Writer
	last map[string]string // what a pull or layer was like
}

func newLines(out io.Writer) *lines { return &lines{out, map[string]string{}} }

func (w *lines) show(r *debugv1.PullsResponse) error {
	var err error
	say := func(key, state, text string) {
		if w.last[key] != state && err == nil {
			w.last[key] = state
			_, err = fmt.Fprintln(w.out, strings.Map(onOneLine, text))
		}
	}
	for _, p := range append(r.GetPulls(), r.GetEnded()...) {
		key := pullName(p) + " " + p.GetBegun().String()
		for _, l := range p.GetLayers() {
			tenth := int64(0)
			if l.GetSize() > 0 {
				tenth = l.GetReceived() * 10 / l.GetSize()
			}
			state := fmt.Sprint(l.GetState(), tenth, l.GetStalledSince() != nil, l.GetTries())
			say(key+l.GetDigest(), state, pullName(p)+" "+layerLine(l))
		}
		say(key, fmt.Sprint(p.GetState(), readyLayers(p)), pullLine(p))
	}
	return err
}

// screen draws on a terminal, each time over the last.
type screen struct {
	out   *os.File
	drawn int             // lines that are drawn over
	told  map[string]bool // ended pulls, whose line stays
}

func (s *screen) show(r *debugv1.PullsResponse) error {
	width, height := 80, 24
	if w, err := unix.IoctlGetWinsize(int(s.out.Fd()), unix.TIOCGWINSZ); err == nil && w.Col > 0 && w.Row > 1 {
		width, height = int(w.Col), int(w.Row)
	}
	var b strings.Builder
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", s.drawn) // up, and clear from there
	}
	if s.told == nil {
		s.told = map[string]bool{}
	}
	for _, p := range r.GetEnded() {
		if key := pullName(p) + p.GetBegun().String(); !s.told[key] {
			s.told[key] = true
			fmt.Fprintln(&b, strings.Map(onOneLine, pullLine(p)))
		}
	}
	frame := drawing(r.GetPulls())
	if more := len(frame) - (height - 1); more > 0 {
		frame = append(frame[:height-2], fmt.Sprintf("… and %d more lines", more+1))
	}
	for _, line := range frame {
		fmt.Fprintln(&b, clip(strings.Map(onOneLine, line), width-1))
	}
	s.drawn = len(frame)
	_, err := io.WriteString(s.out, b.String())
	return err
}

// drawing is a line for each pull, and one for each of its layers that is not
// ready.
func drawing(pulls []*debugv1.Pull) (frame []string) {
	if len(pulls) == 0 {
		return []string{"no pulls under way"}
	}
	for _, p := range pulls {
		frame = append(frame, pullLine(p))
		for _, l := range p.GetLayers() {
			if !finished(l) {
				frame = append(frame, "  "+bar(l)+" "+layerLine(l))
			}
		}
	}
	return frame
}

func finished(l *debugv1.Layer) bool { return l.GetState() == "ready" || l.GetState() == "done" }

func bar(l *debugv1.Layer) string {
	const width = 20
	full := 0
	if l.GetSize() > 0 {
		full = int(min(l.GetReceived()*width/l.GetSize(), width))
	}
	return "[" + strings.Repeat("=", full) + strings.Repeat(" ", width-full) + "]"
}

// pullLine and layerLine say all there is to say of one.
func pullLine(p *debugv1.Pull) string {
	text := fmt.Sprintf("%s %s", pullName(p), p.GetState())
	switch p.GetState() {
	case "done":
		return text + " in " + duration(p.GetSince().AsTime().Sub(p.GetBegun().AsTime()))
	case "failed":
		return text + ": " + p.GetError()
	}
	if len(p.GetLayers()) == 0 {
		return text + " for " + ago(p.GetSince())
	}
	text += fmt.Sprintf(", %d of %d layers, %s of %s", readyLayers(p), len(p.GetLayers()), size(p.GetReceived()), size(p.GetSize()))
	if p.GetState() == "fetching" {
		text += ", " + pace(p.GetRate(), p.GetStalledSince() != nil, ago(p.GetStalledSince()))
		if p.GetLeft() != nil {
			text += ", " + duration(p.GetLeft().AsDuration()) + " left"
		}
	}
	return text
}

func layerLine(l *debugv1.Layer) string {
	text := short(strings.TrimPrefix(l.GetDigest(), "sha256:")) + " " + l.GetState()
	if l.GetState() == "downloading" || l.GetState() == "unpacking" {
		text += fmt.Sprintf(" %s of %s, %s", size(l.GetReceived()), size(l.GetSize()), pace(l.GetRate(), l.GetStalledSince() != nil, ago(l.GetStalledSince())))
	}
	if l.GetTries() > 1 {
		text += fmt.Sprintf(", try %d: %s", l.GetTries(), l.GetTrouble())
	}
	return text
}

func pace(rate int64, stalled bool, since string) string {
	if stalled {
		return "stalled for " + since
	}
	return size(rate) + "/s"
}

// clip cuts a line to what fits: one that wraps would be drawn over wrongly.
func clip(line string, width int) string {
	if utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:max(0, width-1)]) + "…"
}

// Package verdict says of what was measured whether it is what was wanted: a
// table for people, with a last line for scripts.
package verdict

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Target is one figure and what it should be.
type Target struct {
	Text        string
	Limit       float64 // of the ratio; of the figure itself when there is no other
	Least       bool    // it is to be at least that
	Ours, Other float64
	Alone       bool // there is no other
}

// AtMost wants ours ≤ limit × other.
func AtMost(text string, limit, ours, other float64) Target {
	return Target{Text: text, Limit: limit, Ours: ours, Other: other}
}

// AtLeast wants ours ≥ limit × other.
func AtLeast(text string, limit, ours, other float64) Target {
	return Target{Text: text, Limit: limit, Ours: ours, Other: other, Least: true}
}

// NoMore wants ours ≤ limit.
func NoMore(text string, limit, ours float64) Target {
	return Target{Text: text, Limit: limit, Ours: ours, Other: 1, Alone: true}
}

// Met says whether it is as wanted. What could not be measured is not.
func (t Target) Met() bool {
	switch {
	case math.IsNaN(t.Ours) || math.IsNaN(t.Other):
		return false
	case t.Least:
		return t.Ours >= t.Limit*t.Other
	}
	return t.Ours <= t.Limit*t.Other
}

// Ratio is ours to the other's.
func (t Target) Ratio() float64 { return t.Ours / t.Other }

// Table is Markdown that also reads well in a terminal, and says how many were
// met.
func Table(other string, all []Target) string {
	width, missed := len("target"), 0
	for _, t := range all {
		width = max(width, len([]rune(t.Text)))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| %-*s | wanted   | Troupe  | %-10s | ratio |        |\n", width, "target", other)
	fmt.Fprintf(&b, "| %s | -------: | ------: | ---------: | ----: | ------ |\n", strings.Repeat("-", width))
	for _, t := range all {
		sign, verdict, theirs, ratio := "≤", "met", figure(t.Other), fmt.Sprintf("%.2f", t.Ratio())
		if t.Least {
			sign = "≥"
		}
		wanted := fmt.Sprintf("%s %.2f ×", sign, t.Limit)
		if t.Alone {
			wanted, theirs, ratio = fmt.Sprintf("%s %.2f", sign, t.Limit), "", ""
		}
		if !t.Met() {
			verdict = "missed"
			missed++
		}
		fmt.Fprintf(&b, "| %-*s | %8s | %7s | %10s | %5s | %-6s |\n", width, t.Text, wanted, figure(t.Ours), theirs, ratio, verdict)
	}
	fmt.Fprintf(&b, "\n%d met, %d missed\n", len(all)-missed, missed)
	return b.String()
}

// figure has three digits that count, or what stands before the point.
func figure(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "-"
	case a >= 100 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// Machine names the machine, for the head of a page.
func Machine() string {
	var u unix.Utsname
	_ = unix.Uname(&u) // then the kernel is not named
	return fmt.Sprintf("%d cores, Linux %s, %s", runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]), osName())
}

func osName() string {
	text, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"`)
		}
	}
	return runtime.GOOS
}

// Disturbed is "" or says that the machine had something else to do.
func Disturbed(cores float64) string {
	if cores < 0.15 {
		return ""
	}
	return fmt.Sprintf("**Disturbed: %.1f cores were busy with something else. The figures are not to be trusted.**\n", cores)
}

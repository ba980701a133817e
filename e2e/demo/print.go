package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"
)

// printer writes lines with the time since the start in front; in colour only
// on a terminal.
type printer struct {
	mu    sync.Mutex
	out   io.Writer
	start time.Time
	color bool
}

func newPrinter(f *os.File) *printer {
	return &printer{out: f, start: time.Now(), color: term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""}
}

func (p *printer) line(style, format string, args ...any) {
	p.lineAt(time.Now(), style, format, args...)
}

func (p *printer) lineAt(at time.Time, style, format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	stamp := fmt.Sprintf("%7.3f s  ", at.Sub(p.start).Seconds())
	if p.color {
		stamp = "\x1b[2m" + stamp + "\x1b[0m"
		if style != "" {
			text = "\x1b[" + style + "m" + text + "\x1b[0m"
		}
	}
	fmt.Fprintln(p.out, stamp+text)
}

func (p *printer) title(n int, text string) {
	p.mu.Lock()
	fmt.Fprintln(p.out)
	p.mu.Unlock()
	p.line("1;36", "%d. %s", n, text)
}

func (p *printer) say(format string, args ...any)  { p.line("", format, args...) }
func (p *printer) note(format string, args ...any) { p.line("2", format, args...) }
func (p *printer) good(format string, args ...any) { p.line("32", "✓ "+format, args...) }
func (p *printer) bad(format string, args ...any)  { p.line("31", "✗ "+format, args...) }

// noteAt is for what happened a moment ago.
func (p *printer) noteAt(at time.Time, format string, args ...any) {
	p.lineAt(at, "2", format, args...)
}

var labels = map[string]string{
	"process": "processes", "mount": "mounts", "netns": "network namespaces", "link": "links",
	"rule": "iptables rules", "cgroup": "cgroups", "address": "addresses", "file": "files",
}

// leftOf says which things of a kind are left.
func (p *printer) leftOf(kind string, left []string) {
	var mine []string
	for _, l := range left {
		if rest, ok := strings.CutPrefix(l, kind+" "); ok {
			mine = append(mine, rest)
		}
	}
	if len(mine) == 0 {
		p.good("%s: none", labels[kind])
		return
	}
	p.bad("%s: %s", labels[kind], strings.Join(mine, ", "))
}

func (d *demo) goodbye() {
	fmt.Fprint(d.out, `
That was all on a node of its own. On a real one (make install, systemctl start troupe):

  crictl    crictl --runtime-endpoint unix:///run/troupe/troupe.sock info
            or in /etc/crictl.yaml:   runtime-endpoint: unix:///run/troupe/troupe.sock
  kubelet   --container-runtime-endpoint=unix:///run/troupe/troupe.sock
            or in its configuration:  containerRuntimeEndpoint: unix:///run/troupe/troupe.sock
`)
}

var hexID = regexp.MustCompile(`[0-9a-f]{64}`)

// short cuts the ids in a text to the 12 characters people use.
func short(text string) string {
	return hexID.ReplaceAllStringFunc(text, func(id string) string { return id[:12] })
}

func clip(line string, width int) string {
	if r := []rune(short(line)); len(r) > width {
		return string(r[:width-1]) + "…"
	}
	return short(line)
}

func took(begin time.Time) string {
	return fmt.Sprintf("%.1f ms", float64(time.Since(begin).Microseconds())/1000)
}

func pids(all []int) string { return strings.Trim(fmt.Sprint(all), "[]") }

// alive names the pods whose process is there.
func alive(pods []*pod) string {
	var out []string
	for _, p := range pods {
		state := "gone"
		if syscall.Kill(p.pid, 0) == nil {
			state = "alive"
		}
		out = append(out, fmt.Sprintf("%s pid %d %s", p.config.Metadata.Name, p.pid, state))
	}
	return strings.Join(out, ", ")
}

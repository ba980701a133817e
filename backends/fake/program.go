package fake

import (
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// Program is what a command does. The zero value runs until a signal ends it.
type Program struct {
	NotFound bool // there is no such executable: Start and Exec fail
	Ends     bool // it ends by itself …
	After    time.Duration
	Code     int32 // … with this code, above 128 by signal code-128
	// Stubborn ignores every signal but SIGKILL.
	Stubborn bool
	// Linger is how long it needs from a signal to an orderly end with code 0;
	// 0: the signal kills it.
	Linger         time.Duration
	Stdout, Stderr []byte // of a command run by Exec
}

func (p Program) signal() int {
	if p.Code > 128 {
		return int(p.Code - 128)
	}
	return 0
}

// deliver is the effect of a signal on a living process.
func (n *Node) deliver(p *process, number int) {
	now := n.hook.Now()
	harmless := number == int(unix.SIGCHLD) || number == int(unix.SIGCONT) || number == int(unix.SIGURG) || number == int(unix.SIGWINCH)
	switch {
	case number == int(unix.SIGKILL):
		n.slay(p, now)
	case harmless:
	case p.Status == messages.ProcessCreated: // it has no handlers yet
		n.end(p, ending{at: now, code: 128 + int32(number), signal: number})
	case p.program.Stubborn:
	case p.program.Linger > 0:
		n.endAt(p, ending{at: now.Add(p.program.Linger)})
	default:
		n.end(p, ending{at: now, code: 128 + int32(number), signal: number})
	}
}

// signalNumber reads "SIGTERM", "TERM", "SIGRTMIN+3" or "15".
func signalNumber(name string) (int, error) {
	if number, err := strconv.Atoi(name); err == nil && number > 0 && number <= 64 {
		return number, nil
	}
	upper := strings.ToUpper(name)
	if !strings.HasPrefix(upper, "SIG") {
		upper = "SIG" + upper
	}
	if number := unix.SignalNum(upper); number != 0 {
		return int(number), nil
	}
	const rtmin = 34
	if offset, err := strconv.Atoi(strings.TrimPrefix(upper, "SIGRTMIN+")); err == nil && offset >= 0 && rtmin+offset <= 64 {
		return rtmin + offset, nil
	}
	if upper == "SIGRTMIN" {
		return rtmin, nil
	}
	return 0, messages.Errorf(messages.Invalid, "signal %q: not known", name)
}

// Interpret knows a few commands by their names: true, false, sleep, echo, and
// sh -c with those, exit and trap, separated by ';'. A path under /missing, or
// the name no-such-command, is not found; all else runs until a signal ends it.
func Interpret(args []string) Program {
	if len(args) == 0 {
		return Program{}
	}
	name := path.Base(args[0])
	if strings.HasPrefix(args[0], "/missing") || strings.Contains(name, "no-such") {
		return Program{NotFound: true}
	}
	p := &Program{Ends: true}
	switch name {
	case "sh", "ash", "bash":
		if len(args) > 2 && args[1] == "-c" {
			p.script(args[2])
			return *p
		}
		return Program{}
	}
	if !p.run(args) {
		return Program{}
	}
	return *p
}

// script runs commands one after another.
func (p *Program) script(text string) {
	text = strings.NewReplacer("&&", ";", "\n", ";").Replace(text)
	for _, line := range strings.Split(text, ";") {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if words[0] == "exec" {
			words = words[1:]
		}
		if !p.run(words) {
			p.Ends = false
		}
		if words[0] == "exit" || words[0] == "kill" || !p.Ends {
			return
		}
	}
}

// run does one command; false: it does not end by itself.
func (p *Program) run(words []string) bool {
	p.Code = 0
	switch path.Base(words[0]) {
	case "true", ":":
	case "false":
		p.Code = 1
	case "exit":
		code, _ := strconv.Atoi(strings.Join(words[1:], ""))
		p.Code = int32(code & 255)
	case "kill": // kill -9 $$
		number, err := signalNumber(strings.TrimPrefix(words[min(1, len(words)-1)], "-"))
		if err != nil {
			number = int(unix.SIGTERM)
		}
		p.Code = 128 + int32(number)
	case "echo":
		p.echo(words[1:])
	case "trap": // trap "" TERM; trap 'exit 0' TERM would be an orderly end
		p.Stubborn = true
	case "sleep":
		seconds, err := strconv.ParseFloat(strings.Join(words[1:], ""), 64)
		if err != nil || math.IsInf(seconds, 0) {
			return false
		}
		p.After += time.Duration(seconds * float64(time.Second))
	default:
		return false
	}
	return true
}

func (p *Program) echo(words []string) {
	out := &p.Stdout
	if last := len(words) - 1; last >= 0 && (words[last] == ">&2" || words[last] == "1>&2") {
		out, words = &p.Stderr, words[:last]
	}
	for i := range words {
		words[i] = strings.Trim(words[i], `'"`)
	}
	*out = fmt.Appendln(*out, strings.Join(words, " "))
}

// hasPIDNamespace says whether /proc/<pid>/ns/pid is there.
func (n *Node) hasPIDNamespace(file string) bool {
	number, _, _ := strings.Cut(strings.TrimPrefix(file, "/proc/"), "/")
	pid, err := strconv.Atoi(number)
	if err != nil {
		return false
	}
	for _, p := range n.runtime.processes {
		if p.Pid == pid && p.alive() {
			return true
		}
	}
	return false
}

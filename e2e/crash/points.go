package main

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// The modes: what is done at a point.
const (
	daemonDies  = "daemon"  // the daemon, by SIGKILL
	monitorDies = "monitor" // the monitor, by SIGKILL
	bothDie     = "both"    // the daemon, and the monitor right after it
	hangs       = "hang"    // whoever comes by hangs for a while
	again       = "again"   // the daemon, and the next one at a point of its recovery
	traced      = "trace"   // nothing: the points that the story comes by are noted
)

var allModes = []string{daemonDies, monitorDies, bothDie, again, hangs}

// task is one thing to try.
type task struct {
	Mode, Point string
	Nth         int
	Restart     bool   // the story has the daemon killed and started in its middle
	First       string // a point that the monitor dies at before: without that the story does not come by
	Then        string // the second point of mode again
}

func (t task) String() string {
	s := t.Mode + " " + t.Point
	if t.Nth > 1 {
		s += fmt.Sprintf(" #%d", t.Nth)
	}
	if t.First != "" {
		s += " after " + t.First
	}
	if t.Then != "" {
		s += " then " + t.Then
	}
	return s
}

// unreachable are the points that this story cannot come by, and why. They are
// said in the report and not counted.
var unreachable = []struct{ points, why string }{
	{`^(step|undo)/container/checkpoint/|^(monitor|handle)/createRestored/`, "restoring a checkpoint: CRIU does not work on every machine; e2e/vm has it"},
	{`^(step|undo)/container/relabel/`, "relabelling needs SELinux"},
	{`^step/sandbox/strays/`, "strays are only undone"},
	{`^monitor/upgrade/`, "the daemon asks for no upgrade of the monitor, the administrator does (handle/upgrade)"},
	{`^log/anew/`, "a spool begins anew after a fault of the disk; the monitor's tests have it"},
	{`^keep/lost$`, "the monitor dies because the keeper has: then nobody holds anything"},
	{`^(monitor|handle)/quit/`, "nobody asks a monitor to end but Troupe's own tests"},
}

func whyUnreachable(point string) string {
	for _, u := range unreachable {
		if regexp.MustCompile(u.points).MatchString(point) {
			return u.why
		}
	}
	return ""
}

// declared lists the points of a program.
func declared(bin, program string) ([]string, error) {
	out, err := exec.Command(filepath.Join(bin, program), "failpoints").Output()
	if err != nil {
		return nil, fmt.Errorf("%s failpoints: %w (make crash-test builds it)", program, err)
	}
	return strings.Fields(string(out)), nil
}

// leads say at which point the monitor dies before another that only the next
// monitor comes by.
var leads = []struct{ points, first string }{
	{`^keep/(load|serving)/`, "handle/exec/before"},
	{`^log/mend/`, "log/intent/after"},
}

func firstOf(point string) string {
	for _, l := range leads {
		if regexp.MustCompile(l.points).MatchString(point) {
			return l.first
		}
	}
	return ""
}

// times is how often a point is tried in a mode: each time a story writes its
// journal is a point of its own.
func times(mode, point string, hits int) int {
	if mode == daemonDies && strings.HasPrefix(point, "journal/save/") {
		return max(hits, 1)
	}
	return 1
}

// starting are the requests of a daemon's start. Plain stories may have them too,
// in the background or by an upgrade of the monitor, but not for certain.
var starting = regexp.MustCompile(`^(monitor|handle)/(hello|watch|list|state)/`)

// needsRestart: what a plain story does not come by, a start of the daemon does.
func needsRestart(point string, hits int) bool {
	return starting.MatchString(point) || hits == 0 && !strings.HasPrefix(point, "step/") && firstOf(point) == ""
}

// recovery is where a daemon that has just been started may come by. Where it
// does not, the first death is all there is.
var recovery = []string{
	"monitor/hello/after", "monitor/watch/before", "monitor/watch/after", "monitor/list/after", "monitor/state/before", "monitor/state/after",
	"journal/save/before", "journal/save/written", "journal/save/after", "journal/remove/removed", "journal/remove/after",
	"undo/sandbox/network/before", "undo/sandbox/network/after", "undo/sandbox/pause/after", "undo/sandbox/namespaces/after", "undo/sandbox/files/after",
	"undo/container/process/before", "undo/container/process/after", "undo/container/rootfs/after", "undo/container/bundle/after", "network/del/after",
}

// tasks are all there is to do. plain is what a story comes by, as often as it
// does; what is not in it needs a restart in the story's middle.
func tasks(o *options, daemon, monitor []string, plain map[string]int) []task {
	points := map[string][]string{
		daemonDies: daemon, monitorDies: monitor, bothDie: daemon, again: daemon, hangs: slices.Concat(daemon, monitor),
	}
	only, random := regexp.MustCompile(o.only), rand.New(rand.NewPCG(o.seed, 0))
	var all []task
	for _, mode := range allModes {
		if !slices.Contains(strings.Split(o.modes, ","), mode) {
			continue
		}
		for _, p := range points[mode] {
			if whyUnreachable(p) != "" {
				continue
			}
			for n := range times(mode, p, plain[p]) {
				t := task{Mode: mode, Point: p, Nth: n + 1, Restart: needsRestart(p, plain[p]), First: firstOf(p)}
				if mode == again {
					t.Then = recovery[random.IntN(len(recovery))]
				}
				if only.MatchString(t.String()) {
					all = append(all, t)
				}
			}
		}
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:(len(all)+o.every-1)/o.every]
}

package simulations

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

var (
	seedFlag = flag.Uint64("seed", 0, "replay this seed, with its transcript on standard output")
	podsFlag = flag.Int("pods", 40, "pods of a replayed seed")
)

func report(t *testing.T, r Result) {
	t.Helper()
	t.Log(r)
	for kind, n := range r.Injected {
		t.Logf("  %4d × %s", n, kind)
	}
	for i, f := range r.Failures {
		if i == 10 {
			t.Errorf("… and %d more", len(r.Failures)-i)
			break
		}
		t.Error(f)
	}
	if len(r.Failures) > 0 {
		t.Errorf("replay: go test ./simulations -run TestReplay -seed=%d -pods=%d -v", r.Seed, r.Pods)
	}
}

func TestReplay(t *testing.T) {
	if *seedFlag == 0 {
		t.Skip("give -seed=N")
	}
	report(t, Run{Seed: *seedFlag, Pods: *podsFlag, Transcript: os.Stdout}.Do())
}

func TestACalmNodeRunsItsPodsWithoutAnError(t *testing.T) {
	var text bytes.Buffer
	r := Run{Seed: 1, Pods: 20, Faults: &Faults{}, Transcript: &text}.Do()
	report(t, r)
	for line := range strings.Lines(text.String()) {
		refused := strings.Contains(line, side(sides-1)) || strings.Contains(line, "nobody waits") // what pullers try
		if !refused && (strings.Contains(line, "failed") || strings.Contains(line, "lost")) {
			t.Errorf("a calm run had trouble: %s", line)
		}
	}
}

func TestTwoRunsOfOneSeedAreTheSameToTheByte(t *testing.T) {
	for seed := uint64(100); seed < 104; seed++ {
		var a, b bytes.Buffer
		ra := Run{Seed: seed, Pods: 25, Transcript: &a}.Do()
		Run{Seed: seed, Pods: 25, Transcript: &b}.Do()
		t.Logf("%s, %d bytes of transcript", ra, a.Len())
		if !bytes.Equal(a.Bytes(), b.Bytes()) {
			t.Errorf("seed %d: the transcripts differ, first at %s", seed, firstDifference(a.String(), b.String()))
		}
		if a.Len() < 10_000 {
			t.Errorf("seed %d: the transcript has only %d bytes: nothing happened", seed, a.Len())
		}
	}
}

func firstDifference(a, b string) string {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(la), len(lb)) {
		if la[i] != lb[i] {
			return "\n" + la[i] + "\n" + lb[i]
		}
	}
	return "the end"
}

func TestFaultsLeaveNothingBehindAndNoRequestUnanswered(t *testing.T) {
	for seed := uint64(1); seed <= 60; seed++ {
		report(t, Run{Seed: seed, Pods: 20}.Do())
	}
}

// What once broke a promise, as short as it could be told.
func TestWhatOnceFailedDoesNotAgain(t *testing.T) {
	for _, one := range []struct {
		why    string
		seed   uint64
		pods   int
		faults string
	}{
		{
			"an update's last write failed with its effect, and the daemon died while the update was taken back", 9, 20,
			`{"After":0.1,"Slow":0.2,"Only":"Journal","DaemonCrash":8000000000}`,
		},
		{
			"a container was stopped before it was started, and its init ended by itself", 7, 20,
			`{"Before":0.1,"Only":"Runtime","Panic":0.02,"ProcessDeath":300000000,"Undying":300000000}`,
		},
	} {
		plan, err := ParseFaults(one.faults)
		if err != nil {
			t.Fatal(err)
		}
		t.Log(one.why)
		report(t, Run{Seed: one.seed, Pods: one.pods, Faults: &plan}.Do())
	}
}

// A seed that fails can be told shorter, and its plan can be given again.
func TestAFailureIsToldShorterAndAPlanReadsBack(t *testing.T) {
	plan := Draw(rand.New(rand.NewPCG(4, 4)), true)
	again, err := ParseFaults(plan.String())
	if err != nil || again != plan {
		t.Errorf("%s was read as %s: %v", plan, again, err)
	}
	long, broken := Run{Seed: 9, Pods: 120, Faults: &most}, Result{Failures: []string{"broken"}}
	short, result := long.shorten(func(r Run) Result {
		if r.Pods >= 7 && r.Faults.Panic > 0 && r.Faults.Rot > 0 {
			return broken
		}
		return Result{}
	})
	want := Faults{Panic: most.Panic, Rot: most.Rot}
	if len(result.Failures) != 1 || short.Pods != 7 || *short.Faults != want {
		t.Errorf("the shortest is %d pods and %s, with %d failures", short.Pods, short.Faults, len(result.Failures))
	}
}

func TestAThousandPodsLiveTheirLives(t *testing.T) {
	begun := time.Now()
	r := Run{Seed: 1000, Pods: 1000, Faults: &Faults{
		Before: 0.003, After: 0.003, Half: 0.003, Hang: 0.0002, Slow: 0.002,
		DaemonCrash: 40 * time.Second, MonitorCrash: time.Minute, ProcessDeath: time.Second, DiskFull: 90 * time.Second,
	}}.Do()
	report(t, r)
	t.Logf("took %s", time.Since(begun).Round(time.Millisecond))
	if r.Lives < 2 {
		t.Errorf("the daemon never died: %d lives", r.Lives)
	}
}

// Pulls of images that share layers, over a line that is cut and stands still:
// see images.Fetch for what must not happen meanwhile.
func TestPullsOverABadLineShareLayersAndAllAreAnswered(t *testing.T) {
	seen := map[string]int{}
	for seed := uint64(500); seed < 510; seed++ {
		var text bytes.Buffer
		report(t, Run{Seed: seed, Pods: 16, Transcript: &text, Faults: &Faults{Half: 0.15, Slow: 0.15, Hang: 0.02, Only: "Images"}}.Do())
		for _, word := range []string{" stalled", " resumed", " tried again", "nobody waits for it", "refused the credentials", "nothing came for"} {
			seen[word] += strings.Count(text.String(), word)
		}
	}
	t.Log(seen)
	for _, word := range []string{" stalled", " resumed", " tried again", "nobody waits for it", "refused the credentials", "nothing came for"} {
		if seen[word] == 0 {
			t.Errorf("in no run was there %q: the runs show nothing", word)
		}
	}
}

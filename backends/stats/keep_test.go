package stats

import (
	"fmt"
	"testing"
	"time"

	"github.com/troupe-run/troupe/messages"
)

// used is a measurement of so many seconds of CPU.
func used(at time.Time, seconds float64) messages.Usage {
	return messages.Usage{At: at, CPU: messages.CPUUsage{Time: messages.Measured(uint64(seconds * 1e9))}}
}

func TestNanoCoresAreTheUseSinceTheMeasurementBefore(t *testing.T) {
	var k keep
	start := time.Now()
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	rate := func(now, cpu float64, started time.Time) messages.Amount {
		return k.put("c", used(at(now), cpu), false, started).CPU.NanoCores
	}
	long := start.Add(-time.Hour)
	for i, x := range []struct {
		now, cpu float64
		want     any
	}{
		{0, 100, nil},                // of the hour before nothing can be said
		{0.1, 100.05, nil},           // too soon
		{10, 105, 500_000_000},       // 5 s in 10
		{10.001, 105.001, 500000000}, // asked again at once: as a moment ago
		{12, 107, 1_000_000_000},     // since 10, not since 10.001
		{13, 1, 1_000_000_000},       // less than before: counted anew
		{14, 1.25, 250_000_000},
	} {
		want := messages.Amount{}
		if n, ok := x.want.(int); ok {
			want = messages.Measured(uint64(n))
		}
		if got := rate(x.now, x.cpu, long); got != want {
			t.Errorf("%d, at %gs: %+v, want %+v", i, x.now, got, want)
		}
	}
}

func TestANewContainersFirstAnswerHasARate(t *testing.T) {
	var k keep
	now := time.Now()
	if got := k.put("c", used(now, 1), false, now.Add(-2*time.Second)).CPU.NanoCores; got != messages.Measured(500_000_000) {
		t.Errorf("one second of CPU two seconds after the start: %+v", got)
	}
	if got := k.put("d", used(now, 0.1), false, now.Add(-time.Millisecond)).CPU.NanoCores; got.Known {
		t.Errorf("a rate over a millisecond: %+v", got)
	}
	if got := k.put("d", used(now.Add(999*time.Millisecond), 0.25), false, now.Add(-time.Millisecond)).CPU.NanoCores; got != messages.Measured(250_000_000) {
		t.Errorf("who asked too soon and asks again: %+v", got)
	}
}

func TestWhatNobodyAsksAboutIsForgotten(t *testing.T) {
	k, now := keep{}, time.Now()
	for i := range 100 {
		k.put(fmt.Sprint(i), used(now, 1), false, now)
	}
	k.put("later", used(now.Add(forgotten+time.Second), 1), false, now)
	if len(k.of) != 1 {
		t.Errorf("%d are remembered", len(k.of))
	}
}

func TestTheMostHugePagesAreRememberedWhereTheKernelDoesNot(t *testing.T) {
	k, now := keep{}, time.Now()
	for _, bytes := range []uint64{2, 9, 4} {
		u := messages.Usage{At: now, HugePages: []messages.HugePageUsage{{Size: "2MB", Bytes: bytes, Max: bytes}}}
		u = k.put("c", u, true, now)
		if bytes == 4 && u.HugePages[0].Max != 9 {
			t.Errorf("the most is %d", u.HugePages[0].Max)
		}
	}
}

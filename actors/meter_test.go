package actors

import (
	"testing"
	"time"
)

func TestARateIsThatOfTheLastSecondsAndDoesNotCountWhatWasThereBefore(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var m meter
	step := func(d time.Duration, n int64) { at = at.Add(d); m.add(at, n) }
	want := func(what string, rate int64) {
		t.Helper()
		if got := m.rate(at); got != rate {
			t.Errorf("%s: %d B/s, want %d", what, got, rate)
		}
	}
	want("before anything", 0)
	step(0, 50_000_000) // of an earlier try
	want("at once", 0)
	for range 30 {
		step(time.Second, m.samples[len(m.samples)-1].n+1000)
	}
	want("a steady line", 1000)
	for range 5 {
		step(time.Second, m.samples[len(m.samples)-1].n+3000)
	}
	want("half of the window faster", 2000)
	at = at.Add(5 * time.Second)
	want("then nothing for half of it", 1500)
	step(0, 10)
	want("begun anew", 0)
	if len(m.samples) > 12 {
		t.Errorf("%d samples are kept", len(m.samples))
	}
}

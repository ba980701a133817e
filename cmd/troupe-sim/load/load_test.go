package load

import (
	"testing"
	"time"
)

func TestPercentilesAreByNearestRank(t *testing.T) {
	var times []time.Duration
	for i := 100; i >= 1; i-- {
		times = append(times, time.Duration(i)*time.Millisecond)
	}
	got := summarize(times)
	want := Stat{N: 100, P50: 50, P99: 99, Mean: 50.5}
	if got != want {
		t.Errorf("summarize(1…100 ms) = %+v, want %+v", got, want)
	}
	if one := summarize(times[:1]); one.P50 != 1 || one.P99 != 1 {
		t.Errorf("of a single call, both percentiles are that call: %+v", one)
	}
}

func TestMemoryIsReadFromTheRollup(t *testing.T) {
	kib, err := pss("55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:  900 kB\nPss:  512 kB\nPss_Anon: 100 kB\n")
	if err != nil || kib != 512 {
		t.Errorf("pss = %d, %v; want 512", kib, err)
	}
	if _, err := pss("Rss: 1 kB\n"); err == nil {
		t.Error("a rollup without Pss was taken for zero")
	}
}

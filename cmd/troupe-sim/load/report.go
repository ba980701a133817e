package load

import (
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"text/tabwriter"
	"time"
)

// Calls are the measured calls in the order of a pod's life.
var Calls = []string{
	"RunPodSandbox", "CreateContainer", "StartContainer", "ExecSync",
	"StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox",
}

// Report is the outcome of a run.
type Report struct {
	Runtime string          `json:"runtime"`
	Version string          `json:"version"`
	Pods    int             `json:"pods"`
	Callers int             `json:"callers"`
	Seconds float64         `json:"seconds"` // for all lives
	Calls   map[string]Stat `json:"calls"`
	Memory  []Memory        `json:"memory,omitempty"`
}

// Stat sums up one call; times are milliseconds.
type Stat struct {
	N    int     `json:"n"`
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	Mean float64 `json:"mean"`
}

// Print prints it for people.
func (r *Report) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%s %s: %d pods, %d at a time, %.1f s\n", r.Runtime, r.Version, r.Pods, r.Callers, r.Seconds)
	fmt.Fprintln(t, "call\tn\tp50 ms\tp99 ms\tmean ms\t")
	for _, name := range Calls {
		if s, ok := r.Calls[name]; ok {
			fmt.Fprintf(t, "%s\t%d\t%.2f\t%.2f\t%.2f\t\n", name, s.N, s.P50, s.P99, s.Mean)
		}
	}
	for _, m := range r.Memory {
		fmt.Fprintf(t, "PSS with %d pods\t\t%.1f MiB\t\t\t\n", m.Pods, float64(m.PSSKiB)/1024)
	}
	return t.Flush()
}

// recorder collects the durations of calls.
type recorder struct {
	mu    sync.Mutex
	times map[string][]time.Duration
}

func newRecorder() *recorder { return &recorder{times: map[string][]time.Duration{}} }

// time runs a call; only those that succeed count.
func (r *recorder) time(name string, call func() error) error {
	start := time.Now()
	if err := call(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	took := time.Since(start)
	r.mu.Lock()
	r.times[name] = append(r.times[name], took)
	r.mu.Unlock()
	return nil
}

func (r *recorder) stats() map[string]Stat {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]Stat{}
	for name, times := range r.times {
		out[name] = summarize(times)
	}
	return out
}

// summarize sorts times and gives nearest-rank percentiles.
func summarize(times []time.Duration) Stat {
	slices.Sort(times)
	rank := func(p float64) float64 {
		return ms(times[max(0, int(math.Ceil(p*float64(len(times))))-1)])
	}
	var sum time.Duration
	for _, t := range times {
		sum += t
	}
	return Stat{N: len(times), P50: rank(0.50), P99: rank(0.99), Mean: ms(sum) / float64(len(times))}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

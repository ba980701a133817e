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

// Calls are the measured calls in the order of a pod's life; then the lists.
var Calls = []string{
	"RunPodSandbox", "CreateContainer", "StartContainer", "ExecSync",
	"StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox",
	"ListPodSandbox", "ListContainers", "ListContainerStats", "ListPodSandboxStats",
}

// Report is the outcome of a run.
type Report struct {
	Runtime string  `json:"runtime"`
	Version string  `json:"version"`
	Levels  []Level `json:"levels"`
}

// Level is what was measured while so many pods were there.
type Level struct {
	Present int             `json:"present"`
	Busy    float64         `json:"busyCores"` // with nothing to do, before it began
	Calls   map[string]Stat `json:"calls"`     // one caller
	Memory  Memory          `json:"memory"`
	Burst   *Burst          `json:"burst,omitempty"`
	Idle    *Idle           `json:"idle,omitempty"`
}

// Burst is what many starts, several at a time, took, and their removal.
type Burst struct {
	Pods    int             `json:"pods"`
	Callers int             `json:"callers"`
	Start   Cost            `json:"start"`
	Stop    Cost            `json:"stop"`
	Calls   map[string]Stat `json:"calls"`
}

// Idle is the CPU time of the runtime's own processes while a kubelet only
// lists. In seconds.
type Idle struct {
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpuSeconds"`
}

// Stat sums up one call; times are milliseconds.
type Stat struct {
	N    int     `json:"n"`
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	Mean float64 `json:"mean"`
}

// Median takes each figure's median over runs of the same levels; of what
// disturbed them, the worst.
func Median(runs []*Report) *Report {
	m := *runs[0]
	m.Levels = nil
	for i := range runs[0].Levels {
		of := func(figure func(*Level) float64) float64 {
			var all []float64
			for _, r := range runs {
				all = append(all, figure(&r.Levels[i]))
			}
			slices.Sort(all)
			return all[len(all)/2]
		}
		l := runs[0].Levels[i]
		l.Calls = map[string]Stat{}
		for name := range runs[0].Levels[i].Calls {
			l.Calls[name] = Stat{
				N:   int(of(func(l *Level) float64 { return float64(l.Calls[name].N) })),
				P50: of(func(l *Level) float64 { return l.Calls[name].P50 }), P99: of(func(l *Level) float64 { return l.Calls[name].P99 }),
				Mean: of(func(l *Level) float64 { return l.Calls[name].Mean }),
			}
		}
		for _, r := range runs {
			l.Busy = max(l.Busy, r.Levels[i].Busy)
		}
		l.Memory.PSSKiB = int(of(func(l *Level) float64 { return float64(l.Memory.PSSKiB) }))
		if l.Burst != nil {
			b := *l.Burst
			b.Start.Seconds = of(func(l *Level) float64 { return l.Burst.Start.Seconds })
			b.Start.CPUSeconds = of(func(l *Level) float64 { return l.Burst.Start.CPUSeconds })
			b.Stop.Seconds = of(func(l *Level) float64 { return l.Burst.Stop.Seconds })
			b.Stop.CPUSeconds = of(func(l *Level) float64 { return l.Burst.Stop.CPUSeconds })
			l.Burst = &b
		}
		if l.Idle != nil {
			l.Idle = &Idle{Seconds: l.Idle.Seconds, CPUSeconds: of(func(l *Level) float64 { return l.Idle.CPUSeconds / l.Idle.Seconds }) * l.Idle.Seconds}
		}
		m.Levels = append(m.Levels, l)
	}
	return &m
}

// Print prints it for people.
func (r *Report) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%s %s\n", r.Runtime, r.Version)
	for _, l := range r.Levels {
		fmt.Fprintf(t, "with %d pods: PSS %.1f MiB", l.Present, float64(l.Memory.PSSKiB)/1024)
		if l.Idle != nil {
			fmt.Fprintf(t, "; %.1f %% of a core while a kubelet only lists", 100*l.Idle.CPUSeconds/l.Idle.Seconds)
		}
		if b := l.Burst; b != nil {
			fmt.Fprintf(t, "; %d at a time: %.1f pods started a second, %.0f CPU ms each", b.Callers, float64(b.Pods)/b.Start.Seconds, 1000*b.Start.CPUSeconds/float64(b.Pods))
		}
		fmt.Fprintln(t, "\ncall\tn\tp50 ms\tp99 ms\tmean ms\t")
		for _, name := range Calls {
			if s, ok := l.Calls[name]; ok {
				fmt.Fprintf(t, "%s\t%d\t%.2f\t%.2f\t%.2f\t\n", name, s.N, s.P50, s.P99, s.Mean)
			}
		}
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

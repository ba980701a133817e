package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// result is what became of a task.
type result struct {
	Task     task
	Reached  bool
	Err      string         // the story could not be told to its end, or something was wrong
	Leaked   []string       // what the node holds and should not
	Lost     int            // bytes that were written and are in no log
	Doubled  int            // lines that are in a log twice
	Invented []string       // exits told that did not happen so
	Unknown  int            // exits told as unknown
	Hits     map[string]int // of a trace
	Slow     []string       // what took long
	Stalled  bool           // the kernel stood still for a while (harness.Stalled)
	Took     time.Duration
	Log      string // the end of the logs, of a failure
}

func (r *result) good() bool {
	return r.Reached && r.Err == "" && len(r.Leaked) == 0 && r.Lost == 0 && r.Doubled == 0 && len(r.Invented) == 0
}

// unreached says that nothing is wrong but that the point was not come by.
func (r *result) unreached() bool {
	met := *r
	met.Reached = true
	return !r.Reached && met.good()
}

// shorter says that this story had fewer writes of the journal than the one that
// was traced: the last of those can be come by sometimes only.
func (r *result) shorter() bool { return r.Task.Nth > 1 && r.unreached() }

// inconclusive says that the story says nothing of Troupe: the kernel stood
// still, or a monitor was past the point before it was armed, which happens when
// the one before it has died.
func (r *result) inconclusive() bool {
	return r.Stalled && !r.good() || r.Task.First != "" && r.unreached()
}

func (r *result) String() string {
	var wrong []string
	if !r.Reached {
		wrong = append(wrong, "was not reached")
	}
	if r.Err != "" {
		wrong = append(wrong, r.Err)
	}
	for _, l := range r.Leaked {
		wrong = append(wrong, "leaked "+l)
	}
	if r.Lost > 0 {
		wrong = append(wrong, fmt.Sprintf("%d bytes lost", r.Lost))
	}
	if r.Doubled > 0 {
		wrong = append(wrong, fmt.Sprintf("%d lines doubled", r.Doubled))
	}
	wrong = append(wrong, r.Invented...)
	wrong = append(wrong, r.Slow...)
	word := "FAIL"
	switch {
	case r.good():
		word = "ok  "
	case r.shorter():
		word = "--  "
	}
	return fmt.Sprintf("%s %s (%.1fs) %s", word, r.Task, r.Took.Seconds(), strings.Join(wrong, "; "))
}

// tally is the sum of all results.
type tally struct {
	mu                                                sync.Mutex
	points, survived, leaked, lost, invented, unknown int
	shorter                                           int // see result.shorter
	again                                             int // stories that were told again, see result.inconclusive
}

func (t *tally) add(r *result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.shorter() {
		t.shorter++
		return
	}
	t.points++
	if r.good() {
		t.survived++
	}
	t.leaked += len(r.Leaked)
	t.lost += r.Lost
	t.invented += len(r.Invented)
	t.unknown += r.Unknown
}

func (t *tally) oncemore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.again++
}

func (t *tally) good() bool { return t.points > 0 && t.survived == t.points }

func (t *tally) String() string {
	return fmt.Sprintf("%d crash points, %d survived, %d leaked, %d bytes lost, %d exits invented", t.points, t.survived, t.leaked, t.lost, t.invented)
}

// hand is a worker as the leader sees it.
type hand struct {
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
	end io.Closer
}

func hire() (*hand, error) {
	cmd := exec.Command("/proc/self/exe", append([]string{"-worker"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &hand{cmd, json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out)), in}, nil
}

func (h *hand) do(t task) (*result, error) {
	if err := h.in.Encode(t); err != nil {
		return nil, err
	}
	r := &result{}
	if err := h.out.Decode(r); err != nil {
		return nil, fmt.Errorf("the worker at %q gave no result: %w", t, err)
	}
	return r, nil
}

func (h *hand) dismiss() error { return errors.Join(h.end.Close(), h.cmd.Wait()) }

// lead has all tasks done.
func lead(o *options) (*tally, error) {
	t := &tally{}
	daemon, err := declared(o.bin, "troupe")
	if err != nil {
		return t, err
	}
	monitor, err := declared(o.bin, "troupe-monitor")
	if err != nil {
		return t, err
	}
	first, err := hire()
	if err != nil {
		return t, err
	}
	plain, err := first.do(task{Mode: traced})
	if err == nil && !plain.good() {
		err = fmt.Errorf("a story without any crash fails: %s\n%s", plain, plain.Log)
	}
	if err != nil {
		return t, errors.Join(err, first.dismiss())
	}
	all := tasks(o, daemon, monitor, plain.Hits)
	fmt.Printf("seed %d; %d points of the daemon and %d of the monitor; a story comes by %d; %d tries\n", o.seed, len(daemon), len(monitor), len(plain.Hits), len(all))
	for _, u := range unreachable {
		fmt.Printf("not tried: %s (%s)\n", u.points, u.why)
	}
	queue := make(chan task, len(all))
	for _, one := range all {
		queue <- one
	}
	close(queue)
	var group sync.WaitGroup
	errs := make([]error, o.workers)
	for i := range o.workers {
		group.Go(func() { errs[i] = first.serve(i, o, queue, t) })
	}
	group.Wait()
	fmt.Printf("%d exits were told as unknown; %d later writes of the journal were not come by\n", t.unknown, t.shorter)
	if t.again > 0 {
		fmt.Printf("%d stories were told again: the kernel had stood still, or the next monitor was past the point before it was armed\n", t.again)
	}
	if err := errors.Join(errs...); err != nil {
		return t, err
	}
	if tried := t.points + t.shorter; tried < len(all) {
		return t, fmt.Errorf("%d of %d points were tried", tried, len(all))
	}
	return t, nil
}

// patience is how often a story is told that says nothing of Troupe.
const patience = 3

// serve does tasks with a worker until there are none: the first one is there
// already, the others are hired.
func (h *hand) serve(i int, o *options, queue <-chan task, t *tally) (err error) {
	if i > 0 {
		if h, err = hire(); err != nil {
			return err
		}
	}
	defer func() { err = errors.Join(err, h.dismiss()) }()
	for one := range queue {
		r, err := h.do(one)
		for try := 1; err == nil && r.inconclusive() && try < patience; try++ {
			t.oncemore()
			r, err = h.do(one)
		}
		if err != nil {
			return err
		}
		t.add(r)
		failed := !r.good() && !r.shorter()
		if o.verbose || failed {
			fmt.Println(r)
		}
		if o.keep && failed {
			fmt.Println(r.Log)
		}
	}
	return nil
}

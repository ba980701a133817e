package conformance

import (
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

func aCommandRuns(t *testing.T, c *connected) {
	r := c.Process(t, Exits3)
	s, err := c.Create(context30s(t), r)
	must(t, err)
	if s.Status != messages.ProcessCreated || s.Pid == 0 || !s.StartedAt.IsZero() {
		t.Errorf("created: %+v", s)
	}
	c.wantStatus(t, r, messages.ProcessCreated)
	_, err = c.Start(context30s(t), r.Pod, r.Container)
	must(t, err)
	e := c.exit(t, r)
	if e.ExitCode != 3 || e.Signal != 0 || e.ExitUnknown || e.OOMKilled || e.StartedAt.IsZero() || e.ExitedAt.Before(e.StartedAt) {
		t.Errorf("exit: %+v", e)
	}
	if now, err := c.State(context30s(t), r.Pod, r.Container); err != nil || now != e {
		t.Errorf("state is %+v (%v), told was %+v", now, err, e)
	}
	_, err = c.Start(context30s(t), r.Pod, r.Container)
	wantErrorKind(t, err, messages.Precondition)
	must(t, c.Delete(context30s(t), r.Pod, r.Container))
}

func createTwice(t *testing.T, c *connected) {
	r := c.Process(t, Sleeps)
	one, err := c.Create(context30s(t), r)
	must(t, err)
	two, err := c.Create(context30s(t), r)
	must(t, err)
	if one != two {
		t.Errorf("first %+v, then %+v", one, two)
	}
	for range 2 {
		s, err := c.Start(context30s(t), r.Pod, r.Container)
		must(t, err)
		if s.Status != messages.ProcessRunning || s.Pid != one.Pid {
			t.Errorf("started: %+v", s)
		}
	}
	must(t, c.Delete(context30s(t), r.Pod, r.Container))
}

func missingCommand(t *testing.T, c *connected) {
	r := c.Process(t, Missing)
	s, err := c.Create(context30s(t), r)
	must(t, err)
	if s.Status != messages.ProcessCreated {
		t.Errorf("created: %+v", s)
	}
	_, err = c.Start(context30s(t), r.Pod, r.Container)
	wantErrorKind(t, err, messages.Internal)
	if e := c.exit(t, r); e.ExitCode != 128 {
		t.Errorf("exit: %+v", e)
	}
	must(t, c.Delete(context30s(t), r.Pod, r.Container))
}

func killed(t *testing.T, c *connected) {
	for _, all := range []bool{false, true} {
		r := c.run(t, Sleeps)
		must(t, c.Signal(context30s(t), r.Pod, r.Container, "SIGKILL", all))
		if e := c.exit(t, r); e.ExitCode != 137 || e.Signal != 9 {
			t.Errorf("exit: %+v", e)
		}
		must(t, c.Signal(context30s(t), r.Pod, r.Container, "SIGKILL", all))
		must(t, c.Delete(context30s(t), r.Pod, r.Container))
	}
}

func unknown(t *testing.T, c *connected) {
	r := backends.ProcessRequest{Pod: ID(t), Container: ID(t)}
	c.wantStatus(t, r, messages.ProcessGone)
	must(t, c.Signal(context30s(t), r.Pod, r.Container, "SIGTERM", false))
	must(t, c.Signal(context30s(t), r.Pod, r.Container, "SIGKILL", true))
	must(t, c.Delete(context30s(t), r.Pod, r.Container))
	_, err := c.Start(context30s(t), r.Pod, r.Container)
	wantErrorKind(t, err, messages.NotFound)
	_, err = c.Exec(context30s(t), backends.ExecRequest{Pod: r.Pod, Container: r.Container, Command: c.Echo})
	wantErrorKind(t, err, messages.NotFound)
	wantErrorKind(t, c.ReopenLog(context30s(t), r.Pod, r.Container), messages.NotFound)
}

func deleted(t *testing.T, c *connected) {
	r := c.run(t, Sleeps)
	for range 2 {
		must(t, c.Delete(context30s(t), r.Pod, r.Container))
		c.wantStatus(t, r, messages.ProcessGone)
	}
	wantNothingHeld(t, c, r.Pod)
}

func execs(t *testing.T, c *connected) {
	r := c.run(t, Sleeps)
	res, err := c.Exec(context30s(t), backends.ExecRequest{Pod: r.Pod, Container: r.Container, Command: c.Echo})
	must(t, err)
	if string(res.Stdout) != "hello\n" || len(res.Stderr) > 0 || res.ExitCode != 3 {
		t.Errorf("stdout %q, stderr %q, code %d", res.Stdout, res.Stderr, res.ExitCode)
	}
	_, err = c.Exec(context30s(t), backends.ExecRequest{Pod: r.Pod, Container: r.Container, Command: c.Hang, Timeout: 200 * time.Millisecond})
	wantErrorKind(t, err, messages.Deadline)
	must(t, c.ReopenLog(context30s(t), r.Pod, r.Container))
	must(t, c.Signal(context30s(t), r.Pod, r.Container, "SIGKILL", false))
	c.exit(t, r)
	_, err = c.Exec(context30s(t), backends.ExecRequest{Pod: r.Pod, Container: r.Container, Command: c.Echo})
	wantErrorKind(t, err, messages.Precondition)
	wantErrorKind(t, c.ReopenLog(context30s(t), r.Pod, r.Container), messages.Precondition)
	must(t, c.Delete(context30s(t), r.Pod, r.Container))
}

func reconnects(t *testing.T, c *connected) {
	runs, ends := c.run(t, Sleeps), c.run(t, Exits3)
	c.exit(t, ends)
	before, err := c.State(context30s(t), runs.Pod, runs.Container)
	must(t, err)
	other := *c
	other.facts = make(chan messages.ProcessState, 100)
	hangUp := other.connect(t) // the first connection is replaced
	defer hangUp()
	told := map[string]messages.ProcessState{}
	for len(other.facts) > 0 {
		s := <-other.facts
		told[s.Container] = s
	}
	if told[runs.Container] != before {
		t.Errorf("told %+v, want %+v", told[runs.Container], before)
	}
	if s := told[ends.Container]; s.Status != messages.ProcessExited || s.ExitCode != 3 {
		t.Errorf("told %+v", s)
	}
	must(t, other.Delete(context30s(t), runs.Pod, runs.Container))
	must(t, other.Delete(context30s(t), ends.Pod, ends.Container))
}

func leftovers(t *testing.T, c *connected) {
	for _, p := range []Program{Sleeps, Exits3, Missing} {
		r := c.Process(t, p)
		_, err := c.Create(context30s(t), r)
		must(t, err)
		wantHeld(t, c, r.Pod)
		dropAll(t, c, r.Pod)
		c.wantStatus(t, r, messages.ProcessGone)
	}
}

// updates: a limit is set on what lives, and not on what has ended.
func updates(t *testing.T, c *connected) {
	limits := backends.Resources(`{"cpu":{"shares":512}}`)
	r := c.Process(t, Sleeps)
	_, err := c.Create(context30s(t), r)
	must(t, err)
	must(t, c.Update(context30s(t), r.Pod, r.Container, limits))
	_, err = c.Start(context30s(t), r.Pod, r.Container)
	must(t, err)
	for range 2 {
		must(t, c.Update(context30s(t), r.Pod, r.Container, limits))
	}
	must(t, c.Update(context30s(t), r.Pod, r.Container, backends.Resources(`{}`)))
	_, err = c.Exec(context30s(t), backends.ExecRequest{Pod: r.Pod, Container: r.Container, Command: c.Echo})
	must(t, err)
	c.wantStatus(t, r, messages.ProcessRunning)
	must(t, c.Signal(context30s(t), r.Pod, r.Container, "SIGKILL", false))
	c.exit(t, r)
	wantErrorKind(t, c.Update(context30s(t), r.Pod, r.Container, limits), messages.Precondition)
	must(t, c.Delete(context30s(t), r.Pod, r.Container))
	wantErrorKind(t, c.Update(context30s(t), r.Pod, r.Container, limits), messages.NotFound)
}

// pauses: all or none, and a pause ends with Thaw or with its connection.
func pauses(t *testing.T, c *connected) {
	r := c.run(t, Sleeps)
	must(t, c.Thaw(context30s(t), r.Pod, []string{r.Container})) // it is not frozen
	must(t, c.Freeze(context30s(t), r.Pod, []string{r.Container}, time.Minute))
	for range 2 {
		must(t, c.Thaw(context30s(t), r.Pod, []string{r.Container}))
	}
	wantErrorKind(t, c.Freeze(context30s(t), r.Pod, []string{r.Container}, 0), messages.Invalid)
	wantErrorKind(t, c.Freeze(context30s(t), r.Pod, []string{r.Container, ID(t)}, time.Minute), messages.NotFound)
	_, err := c.Exec(context30s(t), backends.ExecRequest{Pod: r.Pod, Container: r.Container, Command: c.Echo})
	must(t, err) // nothing was left frozen
	must(t, c.Freeze(context30s(t), r.Pod, []string{r.Container}, time.Minute))
	must(t, c.Delete(context30s(t), r.Pod, r.Container))
	must(t, c.Thaw(context30s(t), r.Pod, []string{r.Container}))
	wantErrorKind(t, c.Dump(context30s(t), r.Pod, r.Container, t.TempDir()), messages.NotFound)
}

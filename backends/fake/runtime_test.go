package fake_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/messages"
)

func TestAnExitIsToldAndStaysUntilDelete(t *testing.T) {
	n := fake.New(fake.Config{})
	d := connect(t, n)
	start(t, n, id(1), id(2))
	if !n.Kill(id(2), 3, false) || n.Kill(id(2), 3, false) {
		t.Error("Kill does not tell whether the process lived")
	}
	if st := d.next(t, id(2), messages.ProcessExited); st.ExitCode != 3 || st.StartedAt.IsZero() || st.ExitedAt.IsZero() {
		t.Errorf("told %+v", st)
	}
	n.CrashMonitor()
	wantKind(t, <-d.ended, messages.Unavailable)
	again := connect(t, n)
	if st := again.next(t, id(2), messages.ProcessExited); st.ExitCode != 3 || st.ExitUnknown {
		t.Errorf("after the crash %+v", st)
	}
	ok(t, n.Backends().Runtime.Delete(t.Context(), id(1), id(2)))
	st, err := n.Backends().Runtime.State(t.Context(), id(1), id(2))
	ok(t, err)
	if st.Status != messages.ProcessGone {
		t.Errorf("after Delete %+v", st)
	}
}

func TestAnExitWithoutAMonitorIsTakenDownByTheKeeper(t *testing.T) {
	n := fake.New(fake.Config{})
	connect(t, n)
	start(t, n, id(1), id(2))
	n.CrashMonitor()
	n.Kill(id(2), 7, false)
	if st := connect(t, n).next(t, id(2), messages.ProcessExited); st.ExitUnknown || st.ExitCode != 7 {
		t.Errorf("%+v", st)
	}
	if wrong := n.Invented(id(2), 7, false, false); wrong != "" {
		t.Error(wrong)
	}
	for _, invented := range []string{n.Invented(id(2), -1, true, false), n.Invented(id(2), 137, false, false), n.Invented(id(2), 7, false, true)} {
		if invented == "" {
			t.Error("an exit that never was is believed")
		}
	}
}

func TestAMonitorThatIsBehindTellsEndsLateAndRightly(t *testing.T) {
	n := fake.New(fake.Config{})
	d := connect(t, n)
	start(t, n, id(1), id(2))
	start(t, n, id(1), id(3))
	n.Behind(true)
	n.Kill(id(2), 7, false)
	runtime := n.Backends().Runtime
	if st, err := runtime.State(t.Context(), id(1), id(2)); err != nil || st.Status != messages.ProcessRunning {
		t.Errorf("before its end was got to: %+v, %v", st, err)
	}
	wantKind(t, runtime.Delete(t.Context(), id(1), id(2)), messages.Deadline)
	wantKind(t, runtime.Delete(t.Context(), id(1), id(3)), messages.Deadline)
	n.Behind(false)
	if st := d.next(t, id(2), messages.ProcessExited); st.ExitCode != 7 || st.ExitUnknown {
		t.Errorf("%+v", st)
	}
	if st := d.next(t, id(3), messages.ProcessExited); st.Signal != 9 {
		t.Errorf("%+v", st)
	}
	ok(t, runtime.Delete(t.Context(), id(1), id(2)))

	start(t, n, id(1), id(4))
	n.Behind(true)
	n.Kill(id(4), 7, false)
	n.CrashKeeper()
	if st := connect(t, n).next(t, id(4), messages.ProcessExited); !st.ExitUnknown {
		t.Errorf("nobody had got to it: %+v", st)
	}
}

func TestWhatEndsBeforeItRanHasNoExitCode(t *testing.T) {
	n := fake.New(fake.Config{})
	connect(t, n)
	create(t, n, id(1), id(2))
	n.Kill(id(2), 2, false)
	if n.Invented(id(2), 2, false, false) == "" {
		t.Error("the code of its init is believed")
	}
	if wrong := n.Invented(id(2), -1, true, false); wrong != "" {
		t.Error(wrong)
	}
	create(t, n, id(1), id(3))
	n.Kill(id(3), 137, false)
	if n.Invented(id(3), -1, true, false) == "" {
		t.Error("that it was killed could be known")
	}
}

func TestAProcessThatDoesNotDieIsNotForgotten(t *testing.T) {
	n := fake.New(fake.Config{})
	d := connect(t, n)
	start(t, n, id(1), id(2))
	n.Undying(id(2), time.Now().Add(100*time.Millisecond))
	runtime := n.Backends().Runtime
	ok(t, runtime.Signal(t.Context(), id(1), id(2), "SIGKILL", true))
	wantKind(t, runtime.Delete(t.Context(), id(1), id(2)), messages.Deadline)
	if len(n.Living()) != 1 {
		t.Error("it is dead")
	}
	if st := d.next(t, id(2), messages.ProcessExited); st.ExitCode != 137 || st.Signal != 9 {
		t.Errorf("%+v", st)
	}
	ok(t, runtime.Delete(t.Context(), id(1), id(2)))
}

func TestAnExitWithoutMonitorAndKeeperIsUnknownUnlessTheKernelTells(t *testing.T) {
	for _, tells := range []bool{false, true} {
		n := fake.New(fake.Config{ExitInfo: tells})
		connect(t, n)
		start(t, n, id(1), id(2))
		n.CrashKeeper()
		if len(n.Living()) != 1 {
			t.Error("the process did not outlive its monitor")
		}
		_, err := n.Backends().Runtime.State(t.Context(), id(1), id(2))
		wantKind(t, err, messages.Unavailable)
		n.Kill(id(2), 0, true)
		st := connect(t, n).next(t, id(2), messages.ProcessExited)
		if st.ExitUnknown == tells || st.OOMKilled != tells || (st.ExitCode == 137) != tells {
			t.Errorf("kernel tells %v: %+v", tells, st)
		}
	}
}

func TestSignalsDoWhatTheProgramSays(t *testing.T) {
	programs := map[string]fake.Program{"stubborn": {Stubborn: true}, "orderly": {Linger: 10 * time.Millisecond}}
	n := fake.New(fake.Config{Programs: func(args []string) fake.Program { return programs[args[0]] }})
	d := connect(t, n)
	runtime := n.Backends().Runtime
	for i, c := range []struct {
		program, signal string
		code            int32
	}{{"plain", "SIGTERM", 143}, {"plain", "INT", 130}, {"orderly", "SIGTERM", 0}, {"stubborn", "9", 137}} {
		pod, container := id(10+i), id(20+i)
		start(t, n, pod, container, c.program)
		ok(t, runtime.Signal(t.Context(), pod, container, "SIGWINCH", false))
		if c.program == "stubborn" {
			ok(t, runtime.Signal(t.Context(), pod, container, "SIGTERM", false))
		}
		if st, _ := n.Process(container); st.Status != messages.ProcessRunning {
			t.Errorf("%s: %+v", c.program, st)
		}
		ok(t, runtime.Signal(t.Context(), pod, container, c.signal, true))
		if st := d.next(t, container, messages.ProcessExited); st.ExitCode != c.code {
			t.Errorf("%s on %s: %+v", c.program, c.signal, st)
		}
		ok(t, runtime.Signal(t.Context(), pod, container, c.signal, true))
	}
	wantKind(t, runtime.Signal(t.Context(), id(1), id(2), "SIGNOSUCH", false), messages.Invalid)
}

func TestACommandThatIsNotThereIsFoundByStart(t *testing.T) {
	n := fake.New(fake.Config{})
	d := connect(t, n)
	create(t, n, id(1), id(2), "/missing/command")
	_, err := n.Backends().Runtime.Start(t.Context(), id(1), id(2))
	if err == nil {
		t.Error("it started")
	}
	if st := d.next(t, id(2), messages.ProcessExited); st.ExitCode != 128 || !st.StartedAt.IsZero() {
		t.Errorf("%+v", st)
	}
}

func TestProgramsEndByThemselves(t *testing.T) {
	n := fake.New(fake.Config{})
	d := connect(t, n)
	for i, c := range []struct {
		script string
		code   int32
	}{{"exit 7", 7}, {"sleep 0.02; exit 2", 2}, {"kill -9 $$", 137}, {"true; false", 1}, {"sleep 0.01", 0}} {
		start(t, n, id(10+i), id(20+i), "sh", "-c", c.script)
		if st := d.next(t, id(20+i), messages.ProcessExited); st.ExitCode != c.code {
			t.Errorf("%s: %+v", c.script, st)
		}
	}
	start(t, n, id(1), id(2), "sleep", "infinity")
	if st, _ := n.Process(id(2)); st.Status != messages.ProcessRunning {
		t.Errorf("%+v", st)
	}
}

func TestExecEndsWithItsCommandTimeoutContainerOrMonitor(t *testing.T) {
	n := fake.New(fake.Config{})
	connect(t, n)
	start(t, n, id(1), id(2))
	exec := func(timeout time.Duration, command ...string) (messages.ExecResult, error) {
		return n.Backends().Runtime.Exec(t.Context(), backends.ExecRequest{Pod: id(1), Container: id(2), Command: command, Timeout: timeout})
	}
	got, err := exec(time.Second, "sh", "-c", "echo hi; echo no >&2; exit 4")
	ok(t, err)
	if string(got.Stdout) != "hi\n" || string(got.Stderr) != "no\n" || got.ExitCode != 4 {
		t.Errorf("got %+v", got)
	}
	_, err = exec(10*time.Millisecond, "sleep", "60")
	wantKind(t, err, messages.Deadline)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = n.Backends().Runtime.Exec(ctx, backends.ExecRequest{Pod: id(1), Container: id(2), Command: []string{"sleep", "60"}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	wait := make(chan error, 1)
	go func() { _, err := exec(0, "sleep", "60"); wait <- err }()
	time.Sleep(10 * time.Millisecond)
	n.CrashMonitor()
	wantKind(t, <-wait, messages.Unavailable)
	connect(t, n)
	go func() { got, err = exec(0, "sleep", "60"); wait <- err }()
	time.Sleep(10 * time.Millisecond)
	n.Kill(id(2), 0, false)
	ok(t, <-wait)
	if got.ExitCode != 137 {
		t.Errorf("got %+v", got)
	}
	_, err = exec(0, "true")
	wantKind(t, err, messages.Precondition)
	wantKind(t, n.Backends().Runtime.ReopenLog(t.Context(), id(1), id(2)), messages.Precondition)
}

func TestOrdinaryGoroutinesMayShareANode(t *testing.T) {
	n := fake.New(fake.Config{})
	connect(t, n)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			pod, container := id(100+i), id(200+i)
			for range 5 {
				start(t, n, pod, container)
				n.Kill(container, int32(i), false)
				remove(t, n, pod, container)
				_ = n.Invariants()
			}
		})
	}
	all.Wait()
	wantEmpty(t, n)
}

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runPod asks for a pod and gives the answer when there is one.
func runPod(t *testing.T, r *running) <-chan error {
	t.Helper()
	conn, err := dial(r.socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	answer := make(chan error, 1)
	go func() {
		_, err := runtime.NewRuntimeServiceClient(conn).RunPodSandbox(context.Background(), &runtime.RunPodSandboxRequest{
			Config: &runtime.PodSandboxConfig{
				Metadata: &runtime.PodSandboxMetadata{Name: "a", Namespace: "b", Uid: "c"}, Hostname: "a",
				Linux: &runtime.LinuxPodSandboxConfig{}, LogDirectory: "/tmp",
			},
		})
		answer <- err
	}()
	return answer
}

func TestSIGTERMWaitsForCallsUnderWay(t *testing.T) {
	r := startDaemon(t, shortDir(t), "")
	answer := runPod(t, r)
	<-r.pins.entered
	r.signals <- unix.SIGTERM
	waitFor(t, "it is told to end", func() bool { return strings.Contains(r.log.String(), "told to end") })
	if err, ended := r.wait(100 * time.Millisecond); ended {
		t.Fatalf("it ended with a call under way: %v", err)
	}
	close(r.pins.gate)
	if err := <-answer; err != nil {
		t.Errorf("the call under way failed: %v\n%s", err, r.log)
	}
	if err, ended := r.wait(10 * time.Second); err != nil || !ended {
		t.Errorf("it ended: %v, with %v", ended, err)
	}
}

func TestADrainEndsAtItsLimitAndASecondSIGTERMEndsAtOnce(t *testing.T) {
	for name, x := range map[string]struct{ extra, want string }{
		"limit":  {"drain_timeout = \"200ms\"", ""},
		"second": {"drain_timeout = \"1h\"", "told to end twice"},
	} {
		t.Run(name, func(t *testing.T) {
			r := startDaemon(t, shortDir(t), x.extra)
			answer := runPod(t, r)
			<-r.pins.entered
			began := time.Now()
			r.signals <- unix.SIGTERM
			if x.want != "" {
				r.signals <- unix.SIGTERM
			}
			err, ended := r.wait(20 * time.Second)
			switch {
			case !ended:
				t.Fatalf("it does not end:\n%s", r.log)
			case x.want == "" && err != nil, x.want != "" && !strings.Contains(fmt.Sprint(err), x.want):
				t.Errorf("it ended with %v", err)
			}
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("it took %s", took)
			}
			if x.want == "" && <-answer == nil {
				t.Error("the call that was cut off succeeded")
			}
		})
	}
}

func TestSIGHUPAppliesAndNames(t *testing.T) {
	r := startDaemon(t, shortDir(t), "")
	r.write(t, "pull_lane = 1\n[crio.runtime]\nlog_level = \"debug\"\nno_pivot = true")
	r.signals <- unix.SIGHUP
	waitFor(t, "it is reloaded", func() bool { return strings.Contains(r.log.String(), "msg=reloaded") })
	for _, want := range []string{
		`msg="option changed" option=crio.runtime.log_level`,
		`restart the daemon to apply it" option=troupe.pull_lane from=32 to=1`,
		`not honoured" option=crio.runtime.no_pivot`,
	} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("%s is not in\n%s", want, r.log)
		}
	}
	if _, _, errs := r.cli("tree"); errs != "" {
		t.Error(errs)
	}
	r.write(t, "pull_lane = \"many\"")
	r.signals <- unix.SIGHUP
	waitFor(t, "the broken file is refused", func() bool { return strings.Contains(r.log.String(), "was not reloaded") })
	if r.end(t); r.reloads != 1 {
		t.Errorf("registries were re-read %d times", r.reloads)
	}
}

func TestSIGUSR1WritesAllGoroutines(t *testing.T) {
	r := startDaemon(t, shortDir(t), "")
	r.signals <- unix.SIGUSR1
	var dumps []string
	waitFor(t, "it is written", func() bool {
		dumps, _ = filepath.Glob(filepath.Join(r.dir, "run", "goroutines-*.txt"))
		return len(dumps) == 1 && strings.Contains(r.log.String(), dumps[0])
	})
	if text, _ := os.ReadFile(dumps[0]); !strings.Contains(string(text), "untilToldToEnd") {
		t.Errorf("it has %s", text)
	}
}

func TestSystemdIsToldWhatGoesOn(t *testing.T) {
	dir := shortDir(t)
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "notify"))
	t.Setenv("WATCHDOG_USEC", "300000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	expect := func(want string) {
		t.Helper()
		_ = l.SetReadDeadline(time.Now().Add(10 * time.Second))
		var text [512]byte
		for {
			n, err := l.Read(text[:])
			if err != nil {
				t.Fatalf("%s was never told: %v", want, err)
			}
			if strings.Contains(string(text[:n]), want) {
				return
			}
		}
	}
	r := startDaemon(t, dir, "")
	expect("READY=1")
	expect("WATCHDOG=1")
	expect("WATCHDOG=1")
	r.signals <- unix.SIGHUP
	expect("RELOADING=1\nMONOTONIC_USEC=")
	expect("READY=1")
	r.signals <- unix.SIGTERM
	expect("STOPPING=1")
}

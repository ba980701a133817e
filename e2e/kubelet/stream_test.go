//go:build kubelet

package kubelet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// ways are the two protocols kubectl speaks, which the API server hands on to
// the kubelet and the kubelet to the runtime.
var ways = map[string]string{"WebSocket": "true", "SPDY": "false"}

// eachWay runs a test for each protocol against a pod with a shell.
func eachWay(t *testing.T, spec string, test func(t *testing.T, m *member, way func(args ...string) *exec.Cmd)) {
	c := theCluster(t)
	m := c.run(t, spec)
	m.ready(t)
	// Not parallel to each other: the pod is given back when they are done.
	for name, value := range ways {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(background, time.Minute)
			t.Cleanup(cancel)
			test(t, m, func(args ...string) *exec.Cmd {
				cmd := c.api.Command(ctx, append([]string{"-n", "lab"}, args...)...)
				cmd.Env = append(cmd.Env, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS="+value, "KUBECTL_PORT_FORWARD_WEBSOCKETS="+value)
				return cmd
			})
		})
	}
}

const shell = "containers: [{name: a, image: IMAGE}]"

func TestExecCarriesStreamsAndExitCode(t *testing.T) {
	eachWay(t, shell, func(t *testing.T, m *member, way func(args ...string) *exec.Cmd) {
		cmd := way("exec", "-i", m.name, "--", "sh", "-c", "cat; echo complaint >&2; exit 7")
		var out, complaint strings.Builder
		input := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &complaint
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Errorf("the command ends with 7, kubectl with: %v (%s)", err, complaint.String())
		}
		if out.String() != input {
			t.Errorf("1 MiB went in, %d bytes came back", out.Len())
		}
		contains(t, "stderr", complaint.String(), "complaint")
	})
}

// script gives a program a terminal.
func script(cmd *exec.Cmd) *exec.Cmd {
	quoted := make([]string, len(cmd.Args))
	for i, a := range cmd.Args {
		quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	terminal := exec.Command("script", "-qec", "stty rows 33 cols 77; "+strings.Join(quoted, " "), "/dev/null")
	terminal.Env = cmd.Env
	return terminal
}

func TestExecWithATerminal(t *testing.T) {
	eachWay(t, shell, func(t *testing.T, m *member, way func(args ...string) *exec.Cmd) {
		cmd := script(way("exec", "-it", m.name, "--", "sh"))
		in, err := cmd.StdinPipe()
		ok(t, err)
		out, err := cmd.StdoutPipe()
		ok(t, err)
		ok(t, cmd.Start())
		defer func() { _ = cmd.Process.Kill() }() // ended already when all is well
		said := make(chan string, 1)
		go func() {
			text, _ := io.ReadAll(out)
			said <- string(text)
		}()
		for _, line := range []string{"tty", "sleep 1", "stty size", "echo fin$((40+2))", "exit 3"} {
			_, err := io.WriteString(in, line+"\n")
			ok(t, err)
		}
		select {
		case text := <-said:
			for _, want := range []string{"/dev/pts/", "33 77", "fin42"} {
				contains(t, "the terminal", text, want)
			}
		case <-time.After(45 * time.Second):
			t.Fatal("the shell was told to exit, but the terminal is still open")
		}
		_ = in.Close()
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
			t.Errorf("the shell exits with 3, kubectl with: %v", err)
		}
	})
}

func TestAttachSeesAndFeedsTheContainer(t *testing.T) {
	eachWay(t, "containers: [{name: a, image: IMAGE, stdin: true, command: [sh, -c, 'while read l; do echo \"got $l\"; done; sleep 100000']}]", func(t *testing.T, m *member, way func(args ...string) *exec.Cmd) {
		cmd := way("attach", "-i", m.name, "-c", "a")
		in, err := cmd.StdinPipe()
		ok(t, err)
		out, err := cmd.StdoutPipe()
		ok(t, err)
		ok(t, cmd.Start())
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }() // it is to be cut off
		lines := bufio.NewScanner(out)
		word := fmt.Sprintf("word-%d", serial.Add(1))
		// What is sent before the server has attached reaches it then.
		_, err = io.WriteString(in, word+"\n")
		ok(t, err)
		for lines.Scan() {
			if lines.Text() == "got "+word {
				break
			}
		}
		ok(t, lines.Err())
		eventually(t, "the log has it too", func() bool {
			return strings.Contains(m.kubectl(t, "logs", m.name), "got "+word)
		})
		equal(t, "restarts", m.status(t).of("a").RestartCount, 0)
	})
}

func TestPortForward(t *testing.T) {
	eachWay(t, "containers: [{name: a, image: IMAGE, command: [sh, -c, 'head -c 3000000 /dev/zero > /tmp/big; echo page > /tmp/index.html; exec httpd -f -p 127.0.0.1:8080 -h /tmp'], readinessProbe: {exec: {command: [test, -s, /tmp/index.html]}, periodSeconds: 1}}]", func(t *testing.T, m *member, way func(args ...string) *exec.Cmd) {
		cmd := way("port-forward", "--address=127.0.0.1", m.name, ":8080")
		out, err := cmd.StdoutPipe()
		ok(t, err)
		ok(t, cmd.Start())
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }() // it runs until it is killed
		lines := bufio.NewScanner(out)
		if !lines.Scan() {
			t.Fatalf("kubectl port-forward says nothing: %v", lines.Err())
		}
		var address string
		if !scan(strings.TrimPrefix(lines.Text(), "Forwarding from "), &address) {
			t.Fatalf("kubectl port-forward says %q", lines.Text())
		}
		go func() {
			_, _ = io.Copy(io.Discard, out) // it goes on talking
		}()
		for range 3 {
			equal(t, "the page", strings.TrimSpace(string(fetch(t, "http://"+address+"/"))), "page")
		}
		equal(t, "bytes of a big file", len(fetch(t, "http://"+address+"/big")), 3000000)
	})
}

func fetch(t *testing.T, url string) []byte {
	t.Helper()
	client := http.Client{Timeout: 20 * time.Second}
	resp, err := client.Get(url)
	ok(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	ok(t, err)
	return text
}

func TestFilesAreCopiedByKubectl(t *testing.T) {
	c := theCluster(t)
	m := c.run(t, shell)
	m.ready(t)
	from, err := c.lab.Write(strings.Repeat("copy me\n", 10000), "copy-from")
	ok(t, err)
	m.kubectl(t, "cp", from, m.name+":/tmp/copied")
	equal(t, "lines in the container", m.exec(t, "a", "wc -l < /tmp/copied"), "10000")
	back := c.lab.Path("copy-back")
	m.kubectl(t, "cp", m.name+":/tmp/copied", back)
	text, err := os.ReadFile(back)
	ok(t, err)
	equal(t, "bytes that came back", len(text), 80000)
}

// The session of an exec outlives nothing: when the container ends, it ends.
func TestAnExecEndsWithItsContainer(t *testing.T) {
	eachWay(t, "containers: [{name: a, image: IMAGE, command: [sh, -c, \"trap 'exit 0' TERM; while :; do sleep 0.1; done\"]}]", func(t *testing.T, m *member, way func(args ...string) *exec.Cmd) {
		m.ready(t)
		began := m.status(t).of("a").RestartCount
		cmd := way("exec", m.name, "--", "sh", "-c", "echo here; sleep 100000")
		out, err := cmd.StdoutPipe()
		ok(t, err)
		ok(t, cmd.Start())
		defer func() { _ = cmd.Process.Kill() }() // ended already when all is well
		if !bufio.NewScanner(out).Scan() {
			t.Fatal("the command says nothing")
		}
		stop(t, m.node, strings.TrimPrefix(m.status(t).of("a").ContainerID, "troupe://"))
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case err := <-ended:
			if err == nil {
				t.Error("kubectl exec says that a command that was killed succeeded")
			}
		case <-time.After(30 * time.Second):
			t.Error("the container has ended, kubectl exec has not")
		}
		m.until(t, "the container is restarted", func(s *status) bool { return s.of("a").RestartCount > began && s.is("Ready") })
	})
}

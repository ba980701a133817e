package harness

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// startProcess starts a process whose output goes to a file and that is ended
// with the lab.
func (l *Lab) startProcess(cmd *exec.Cmd, log string) error {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return err
	}
	l.OnClose(func() error { return end(cmd) })
	return nil
}

// end asks a child to stop, waits a little, then kills it. A child that has
// been waited for is a success.
func end(cmd *exec.Cmd) error {
	if cmd.ProcessState != nil {
		return nil
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended does not matter
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		<-done
	}
	return nil
}

// killed ends a child with SIGKILL and waits for it.
func killed(cmd *exec.Cmd) error {
	if err := cmd.Process.Kill(); err != nil {
		return err
	}
	_ = cmd.Wait() // "signal: killed" is what was asked for
	return nil
}

package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"github.com/troupe-run/troupe/messages"
)

// dialOrStart connects to the monitor that serves the directory, or starts it.
func (c *Client) dialOrStart(ctx context.Context) (*session, error) {
	s, err := c.dial(ctx)
	if err == nil || !nobodyListens(err) {
		return s, err
	}
	binary, err := c.binary()
	if err != nil {
		return nil, err
	}
	ended, err := c.start(binary)
	if err != nil {
		return nil, messages.Errorf(messages.Unavailable, "start troupe-monitor (%s): %w", binary, err)
	}
	limit := time.NewTimer(c.cfg.StartTimeout)
	defer limit.Stop()
	for {
		s, err := c.dial(ctx)
		if err == nil || !nobodyListens(err) {
			return s, err
		}
		select {
		case code := <-ended:
			if code == wire.ExitServed { // another is just coming up
				ended = nil
				continue
			}
			return nil, messages.Errorf(messages.Unavailable, "troupe-monitor (%s) ended at once; the end of %s: %s", binary, c.logPath(), c.logTail())
		case <-limit.C:
			return nil, messages.Errorf(messages.Unavailable, "troupe-monitor (%s) does not answer on %s within %v; see %s", binary, c.socket(), c.cfg.StartTimeout, c.logPath())
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// nobodyListens tells an absent monitor from one that cannot be talked to.
func nobodyListens(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

func (c *Client) dial(ctx context.Context) (*session, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", c.socket())
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, messages.Errorf(messages.Unavailable, "connect to troupe-monitor: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.StartTimeout)
	defer cancel()
	return greet(ctx, nc, c.cfg.Log)
}

// binary finds the monitor's program.
func (c *Client) binary() (string, error) {
	const name = "troupe-monitor"
	if c.cfg.Binary != "" {
		if _, err := exec.LookPath(c.cfg.Binary); err != nil {
			return "", messages.Errorf(messages.Unavailable, "the monitor's program cannot be run: %w; install it or correct the path", err)
		}
		return c.cfg.Binary, nil
	}
	beside := ""
	if self, err := os.Executable(); err == nil {
		beside = filepath.Join(filepath.Dir(self), name)
		if _, err := exec.LookPath(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", messages.Errorf(messages.Unavailable, "the monitor's program is neither %s nor in PATH: %w; install it or set its path", beside, err)
	}
	return path, nil
}

// start runs the monitor as a process that stays when the daemon ends: a
// session of its own, output to a file, nothing of the daemon's environment
// but the search path. ended has its exit code when it ends while we are there.
func (c *Client) start(binary string) (ended <-chan int, err error) {
	if err := os.MkdirAll(c.cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(c.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(binary, "--dir", c.cfg.Dir, "--cgroup-manager", c.cfg.CgroupManager)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = "/"
	cmd.Env = append(failpoint.Environ(), "PATH="+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c.cfg.Log.Info("troupe-monitor started", "binary", binary, "pid", cmd.Process.Pid, "dir", c.cfg.Dir)
	done := make(chan int, 1)
	go func() {
		err := cmd.Wait()
		done <- cmd.ProcessState.ExitCode()
		c.cfg.Log.Warn("troupe-monitor ended", "pid", cmd.Process.Pid, "result", fmt.Sprint(err))
	}()
	return done, nil
}

func (c *Client) logPath() string { return filepath.Join(c.cfg.Dir, "monitor.log") }

// logTail is the last line the monitor wrote.
func (c *Client) logTail() string {
	data, err := os.ReadFile(c.logPath())
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(lines[len(lines)-1])
}

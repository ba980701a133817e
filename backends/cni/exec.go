package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

// pluginExec runs plugins for libcni. It differs from libcni's own in that a
// plugin is killed with all it started when its context ends.
type pluginExec struct {
	version.PluginDecoder
	log  *slog.Logger
	lock *os.File // inherited: held until the last process of the plugin ends
}

var _ invoke.Exec = (*pluginExec)(nil)

// drain is how long output is waited for after a plugin has ended: something
// it left in the background may keep the pipe open for ever.
const drain = time.Second

// FindInPath finds a plugin's binary.
func (e *pluginExec) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// ExecPlugin runs a plugin once. A binary that is being replaced just now
// ("text file busy") is given a moment.
func (e *pluginExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	for try := 0; ; try++ {
		out, err := e.run(ctx, path, stdin, environ)
		if !errors.Is(err, unix.ETXTBSY) || try == 5 {
			return out, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (e *pluginExec) run(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, bytes.NewReader(stdin), &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = drain
	if e.lock != nil {
		cmd.ExtraFiles = []*os.File{e.lock}
	}
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	e.log.Debug("CNI plugin ended", "plugin", path, "took", took, "error", err, "stderr", strings.TrimSpace(stderr.String()))
	switch {
	case ctx.Err() != nil && err != nil:
		return nil, fmt.Errorf("%s was killed, it had not ended after %s: %w", filepath.Base(path), took.Round(time.Millisecond), ctx.Err())
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return stdout.Bytes(), nil
	}
	return nil, pluginError(err, stdout.Bytes(), stderr.Bytes())
}

// pluginError is what the plugin says of its failure, which the CNI
// specification wants on stdout as JSON.
func pluginError(err error, stdout, stderr []byte) error {
	told := &types.Error{}
	if json.Unmarshal(stdout, told) == nil && (told.Msg != "" || told.Code != 0) {
		return told
	}
	if text := lastLines(stderr); text != "" {
		return fmt.Errorf("%w: %s", err, text)
	}
	if text := lastLines(stdout); text != "" {
		return fmt.Errorf("%w: %s", err, text)
	}
	return fmt.Errorf("%w, without a word", err)
}

// lastLines keeps an error readable: a Go plugin that panics writes pages.
func lastLines(output []byte) string {
	const most = 1000
	text := strings.TrimSpace(string(output))
	if len(text) > most {
		text = "…" + text[len(text)-most:]
	}
	return text
}

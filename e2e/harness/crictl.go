package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
)

// Crictl runs the real crictl against a socket.
type Crictl struct{ bin, config string }

// NewCrictl gives a crictl for the socket with a configuration of its own.
func (l *Lab) NewCrictl(socket string) (*Crictl, error) {
	bin, err := Tool("crictl")
	if err != nil {
		return nil, err
	}
	config, err := l.Write(fmt.Sprintf("runtime-endpoint: unix://%s\nimage-endpoint: unix://%s\ntimeout: 60\n", socket, socket), "crictl.yaml")
	return &Crictl{bin, config}, err
}

// Run runs crictl and gives what it printed, without the final newline. The
// error holds what it complained about.
func (c *Crictl) Run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.bin, append([]string{"--config", c.config}, args...)...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("crictl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return strings.TrimRight(out.String(), "\n"), nil
}

// JSON runs a crictl command with "-o json" at its end and decodes the answer.
func (c *Crictl) JSON(ctx context.Context, into any, args ...string) error {
	out, err := c.Run(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("crictl %s: its answer is not JSON: %w", strings.Join(args, " "), err)
	}
	return nil
}

// Command is crictl not run yet, for a test that talks to it while it runs.
func (c *Crictl) Command(args ...string) *exec.Cmd {
	return exec.Command(c.bin, append([]string{"--config", c.config}, args...)...)
}

package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/troupe-run/troupe/backends/monitor/wire"
)

// Runtime says how an OCI runtime is run.
type Runtime = wire.Runtime

// Features is what a runtime's program says of itself.
type Features struct {
	Kind    string // its name for itself: crun, runc, …
	Version string // the first line of --version, for people
	// RecursiveReadOnly: it knows the mount option rro. IDMap: it maps the ids of
	// mounts, which user namespaces need. Both are false for a program that has
	// no features command: too little is promised rather than too much.
	RecursiveReadOnly, IDMap bool
}

// probeLimit is how long a program may take to say what it is.
const probeLimit = 10 * time.Second

// Probe runs a runtime's program to find out what it is and can do
// (runtime-spec, features.md). An error says that it cannot be used.
func Probe(ctx context.Context, path string) (Features, error) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	out, err := outputOf(ctx, path, "--version")
	if err != nil {
		return Features{}, err
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	f := Features{Version: line}
	if words := strings.Fields(line); len(words) > 0 {
		f.Kind = words[0]
	}
	var document struct {
		MountOptions []string `json:"mountOptions"`
		Linux        struct {
			MountExtensions struct {
				IDMap struct {
					Enabled bool `json:"enabled"`
				} `json:"idmap"`
			} `json:"mountExtensions"`
		} `json:"linux"`
	}
	out, err = outputOf(ctx, path, "features")
	if err != nil || json.Unmarshal(out, &document) != nil {
		return f, nil // crun 1.8.1 (Debian 12) has no such command
	}
	f.RecursiveReadOnly = slices.Contains(document.MountOptions, "rro")
	f.IDMap = document.Linux.MountExtensions.IDMap.Enabled
	return f, nil
}

func outputOf(ctx context.Context, path, command string) ([]byte, error) {
	var out, diag bytes.Buffer
	cmd := exec.CommandContext(ctx, path, command)
	cmd.Env, cmd.Dir, cmd.WaitDelay = []string{"PATH=" + os.Getenv("PATH")}, "/", time.Second
	cmd.Stdout, cmd.Stderr = &out, &diag
	err := cmd.Run()
	if err == nil {
		return out.Bytes(), nil
	}
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return nil, fmt.Errorf("%s %s: %w: %s", path, command, err, strings.TrimSpace(diag.String()))
}

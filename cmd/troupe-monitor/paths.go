//go:build linux && cgo

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// paths are the places below the monitor's directory.
type paths struct{ dir string }

func (p paths) socket() string    { return filepath.Join(p.dir, "monitor.sock") }
func (p paths) state() string     { return filepath.Join(p.dir, "state") } // libcontainer's
func (p paths) work() string      { return filepath.Join(p.dir, "oci") }   // what OCI runtimes are given
func (p paths) pauseRoot() string { return filepath.Join(p.dir, "pause-root") }

// container is what is to be known of a container to find it again; exit is
// how it ended, there before anybody is told.
func (p paths) container(key string) string { return filepath.Join(p.dir, "containers", key) }
func (p paths) exit(key string) string      { return filepath.Join(p.exits(), key) }
func (p paths) exits() string               { return filepath.Join(p.dir, "exits") }
func (p paths) spools() string              { return filepath.Join(p.dir, "spool") }
func (p paths) damaged() string             { return filepath.Join(p.dir, "damaged") }

func (p paths) make() error {
	for _, d := range []string{p.dir, p.state(), p.work(), p.spools(), filepath.Join(p.dir, "containers"), p.exits()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("make the monitor's directory: %w", err)
		}
	}
	// The root of a pod's user namespace walks through it to the pause root.
	if err := os.Chmod(p.dir, 0o711); err != nil {
		return fmt.Errorf("make the monitor's directory: %w", err)
	}
	return nil
}

var errServed = errors.New("another monitor serves")

// lock makes sure that two monitors never serve one directory. The kernel
// takes it back when this process ends, however it ends.
func (p paths) lock() (*os.File, error) {
	name := filepath.Join(p.dir, "monitor.lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w %s already (it holds %s)", errServed, p.dir, name)
		}
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}

// writeJSON replaces a file as a whole: a reader sees the old or the new one,
// also when this process dies on the way.
func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		os.Remove(tmp)
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		os.Remove(tmp)
		return err
	}
	return nil
}

func readJSON(path string, v any) error {
	data, err := readFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	return nil
}

// maxFile is how big a file of ours may be, in bytes; a bundle's config.json
// holds what a client asked for.
const maxFile = 64 << 20

// readFile reads a file, whatever has come to lie in its place since it was
// written: it waits for no pipe and takes no more than maxFile.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is no file of this program (%s, %d bytes)", path, info.Mode().Type(), info.Size())
	}
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// removeAll removes files that may not be there.
func removeAll(names ...string) error {
	var errs []error
	for _, n := range names {
		if err := os.RemoveAll(n); err != nil { // whatever damage has made of it
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

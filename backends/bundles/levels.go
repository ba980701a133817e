package bundles

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// categories is how many there are in SELinux's MCS policies: a pair of two
// different ones is a pod's level, half a million in all.
const categories = 1024

// levels are the SELinux levels in use, one link each: <dir>/c<n>,c<m> points
// to the pod's id. symlink(2) fails when there is one, so a level has one
// owner, also while an older daemon of a pod's start is still dying; and a
// daemon that is started again finds them all.
type levels struct {
	dir string
	mu  sync.Mutex // keeps one pod from taking two
}

// take gives the pod's level: the one it has, or else one that is free.
func (l *levels) take(pod string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	owners, err := l.owners()
	if err != nil {
		return "", err
	}
	for level, owner := range owners {
		if owner == pod {
			return "s0:" + level, nil
		}
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return "", withSpace(fmt.Errorf("SELinux level of pod %s: %w", pod, err))
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(pod))
	const pairs = categories * (categories - 1)
	for i := range uint32(pairs) {
		level := pairOf((h.Sum32() + i) % pairs)
		if owners[level] != "" {
			continue
		}
		err := os.Symlink(pod, filepath.Join(l.dir, level))
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", withSpace(fmt.Errorf("SELinux level of pod %s: %w", pod, err))
		}
		return "s0:" + level, nil
	}
	return "", messages.Errorf(messages.Busy, "SELinux level of pod %s: all are in use", pod)
}

// pairOf is the level with a number; two numbers share one.
func pairOf(n uint32) string {
	low, high := n%categories, (n/categories)%(categories-1)
	if high >= low {
		high++
	}
	return fmt.Sprintf("c%d,c%d", min(low, high), max(low, high))
}

func (l *levels) release(pod string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	owners, err := l.owners()
	if err != nil {
		return err
	}
	var errs []error
	for level, owner := range owners {
		if owner != pod {
			continue
		}
		if err := os.Remove(filepath.Join(l.dir, level)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("give back the SELinux level of pod %s: %w", pod, err))
		}
	}
	return errors.Join(errs...)
}

// owners are the pods by level.
func (l *levels) owners() (map[string]string, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("SELinux levels in use: %w", err)
	}
	owners := map[string]string{}
	for _, e := range entries {
		pod, err := os.Readlink(filepath.Join(l.dir, e.Name()))
		if err == nil && backends.CheckID("pod", pod) == nil && strings.HasPrefix(e.Name(), "c") {
			owners[e.Name()] = pod
		}
	}
	return owners, nil
}

// held is every level that is taken.
func (l *levels) held() ([]backends.Held, error) {
	owners, err := l.owners()
	if err != nil {
		return nil, err
	}
	var held []backends.Held
	for level, pod := range owners {
		held = append(held, backends.Held{Kind: levelKind, Pod: pod, Name: filepath.Join(l.dir, level)})
	}
	return held, nil
}

const levelKind = "SELinux level"

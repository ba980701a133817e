package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"
)

// dumpGoroutines writes the stack of every goroutine to a new file in dir.
func dumpGoroutines(dir string) (path string, err error) {
	path = filepath.Join(dir, "goroutines-"+time.Now().UTC().Format("20060102T150405.000Z")+".txt")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("goroutine dump: %w", err)
	}
	const withStacks = 2
	err = pprof.Lookup("goroutine").WriteTo(f, withStacks)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("goroutine dump to %s: %w", path, err)
	}
	return path, nil
}

//go:build linux && cgo

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// setAside puts a container's record that cannot be used where it is in nobody's
// way. What runs of the container the daemon finds by the mark on its cgroup,
// and ends it: nobody can tell any more whose output, exit and limits it has.
func (m *monitor) setAside(key string, why error) {
	kept := filepath.Join(m.damaged(), fmt.Sprintf("%s-%d", key, time.Now().UnixNano()))
	err := os.MkdirAll(filepath.Dir(kept), 0o700)
	if err == nil {
		err = os.Rename(m.container(key), kept)
	}
	if err == nil {
		err = removeAll(filepath.Join(m.state(), key)) // its other files are strays by now
	}
	m.log.Error("the record of a container of an earlier monitor cannot be used; it was put aside, and the daemon ends what is left of the container; look at the file, or delete it",
		"container", key, "why", why, "kept", kept, "err", err)
}

// dropStrays removes the files of containers that are not known: of those whose
// record was set aside, and of creates that ended before there was one.
func (m *monitor) dropStrays() {
	known := map[string]bool{}
	m.mu.Lock()
	for key := range m.containers {
		known[key] = true
	}
	m.mu.Unlock()
	var strays []string
	for _, dir := range []string{m.spools(), m.exits()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			m.log.Error("files of containers that are gone cannot be found", "err", err)
		}
		for _, e := range entries {
			key := e.Name()
			for _, suffix := range []string{".stdout", ".stderr", ".tmp"} {
				key = strings.TrimSuffix(key, suffix)
			}
			if !known[key] {
				strays = append(strays, filepath.Join(dir, e.Name()))
			}
		}
	}
	entries, _ := os.ReadDir(m.damaged()) // mostly there is none
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > damagedAge {
			strays = append(strays, filepath.Join(m.damaged(), e.Name()))
		}
	}
	if err := removeAll(strays...); err != nil {
		m.log.Error("files of containers that are gone stay until the next start", "err", err)
	}
}

// damagedAge is how long records that cannot be used are kept for who wants to
// look at them.
const damagedAge = 7 * 24 * time.Hour

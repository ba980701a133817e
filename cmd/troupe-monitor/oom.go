//go:build linux && cgo

package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// oomWatch knows whether the kernel's OOM killer took a process of the
// container. Its file is opened while the container is made. With cgroup v2
// it is also read at every change, because systemd may remove the scope of an
// ended container before anybody else looks; v1 has no such event that could
// be trusted (it comes before the kill), but its file is there until Delete.
//
// On a busy node systemd can be first all the same: the kernel tells it that
// the cgroup is empty before it tells us that init is dead. Then the cgroup
// above, which counts what is below it and stays, says whether somebody was
// killed since our own counter was last read.
type oomWatch struct {
	loop  *loop
	mu    sync.Mutex
	file  *os.File
	token uint64 // 0: not in the loop
	kills uint64

	above  *os.File // nil: cgroup v1, or not to be had
	before uint64   // its count when ours was last read
}

func watchOOM(l *loop, cg cgroups.Manager, log *slog.Logger) *oomWatch {
	name := filepath.Join(cg.Path("memory"), "memory.oom_control")
	if cgroups.IsCgroup2UnifiedMode() {
		name = filepath.Join(cg.Path(""), "memory.events")
	}
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		log.Warn("an OOM kill of this container will not be noticed", "file", name, "err", err)
		return nil
	}
	w := &oomWatch{loop: l, file: os.NewFile(uintptr(fd), name)}
	if cgroups.IsCgroup2UnifiedMode() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.token, err = l.add(fd, unix.EPOLLPRI, func(uint32, []byte) { w.look() }); err != nil {
			log.Warn("OOM kills of this container are looked for at its end only", "err", err)
		}
		if w.above, err = os.Open(filepath.Join(filepath.Dir(cg.Path("")), "memory.events")); err == nil {
			w.before, _ = oomKills(w.above) // 0 at worst
		}
	}
	return w
}

// look reads the counter and remembers it beyond the cgroup's end.
func (w *oomWatch) look() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lookLocked()
}

// lookLocked says whether the counter could be read. The one above is read
// first: a kill in between is then in ours.
func (w *oomWatch) lookLocked() bool {
	if w.file == nil {
		return false
	}
	above, seen := oomKills(w.above)
	kills, ok := oomKills(w.file)
	if ok {
		w.kills = kills
		if seen {
			w.before = above
		}
	}
	return ok
}

// killed says whether somebody was. bySIGKILL is whether init ended so; only
// then is a kill that the cgroup above counted taken for one of ours.
func (w *oomWatch) killed(bySIGKILL bool) bool {
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.lookLocked() && bySIGKILL {
		if now, ok := oomKills(w.above); ok && now > w.before {
			w.kills++
		}
	}
	return w.kills > 0
}

// oomKills reads "oom_kill N", as memory.events and v1's memory.oom_control
// have it; not ok when the cgroup has gone.
func oomKills(file *os.File) (kills uint64, ok bool) {
	if file == nil {
		return 0, false
	}
	buf := make([]byte, 1024)
	n, _ := file.ReadAt(buf, 0) // the end of the file is an error too
	for line := range bytes.Lines(buf[:max(n, 0)]) {
		if value, found := bytes.CutPrefix(bytes.TrimSpace(line), []byte("oom_kill ")); found {
			kills, err := strconv.ParseUint(string(value), 10, 64)
			return kills, err == nil
		}
	}
	return 0, false
}

func (w *oomWatch) close() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return
	}
	if w.token != 0 {
		w.loop.drop(int(w.file.Fd()), w.token)
	}
	w.file.Close()
	if w.above != nil {
		w.above.Close()
	}
	w.file, w.above = nil, nil
}

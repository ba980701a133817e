package stats

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

const (
	// mostCgroups bounds how many cgroups below a container's are looked at.
	mostCgroups = 1024
	// mostLinks bounds how many descriptors are looked at for whether they are
	// sockets: a million of them would take a second, every time.
	mostLinks = 20_000
)

// processes counts them. Threads come from the pids controller; processes are
// what cgroup.procs lists, since a thread is not one.
func (r *reader) processes(ctx context.Context, p place, u *messages.ProcessUsage, whole bool) {
	if of := cmp.Or(p.pids, p.v2); whole && of != "" {
		u.Threads, u.ThreadsMax = r.number(of, "pids.current"), r.number(of, "pids.max")
	}
	look := processLook{ctx: ctx, r: r, whole: whole, cgroups: mostCgroups, links: mostLinks}
	if !look.cgroup(cmp.Or(p.pids, p.v2, p.memory, p.cpuacct, p.cpu)) || look.cgroups < 0 {
		return
	}
	u.Count = messages.Measured(look.count)
	if whole {
		u.FileDescriptors = messages.Measured(look.descriptors)
		if look.links > 0 {
			u.Sockets = messages.Measured(look.sockets)
		}
	}
}

// processLook goes through a cgroup and those below it.
type processLook struct {
	ctx                         context.Context
	r                           *reader
	whole                       bool
	cgroups, links              int // how many more may be looked at
	count, descriptors, sockets uint64
}

func (k *processLook) cgroup(dir string) bool {
	if k.cgroups--; k.cgroups < 0 || k.ctx.Err() != nil {
		return false
	}
	text, err := k.r.read(path.Join(dir, "cgroup.procs"))
	if err != nil {
		return false // EOPNOTSUPP in a threaded cgroup: its processes are its parent's
	}
	var list []uint64
	for l := lines(text); ; {
		line, ok := l.next()
		if !ok {
			break
		}
		if pid := number(line); pid.Known {
			k.count++
			if k.whole {
				list = append(list, pid.N)
			}
		}
	}
	for _, pid := range list {
		k.process(pid)
	}
	var st unix.Stat_t
	// A directory of kernfs has two links and one for each below it: one call
	// says that there are none.
	if unix.Stat(dir, &st) != nil || st.Nlink <= 2 {
		return true
	}
	entries, _ := os.ReadDir(dir) // gone meanwhile: so are its processes
	for _, e := range entries {
		if e.IsDir() {
			k.cgroup(path.Join(dir, e.Name()))
		}
	}
	return true
}

func (k *processLook) process(pid uint64) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	f, err := os.Open(dir)
	if err != nil {
		return // ended meanwhile
	}
	defer f.Close()
	for k.ctx.Err() == nil && k.links > 0 {
		names, err := f.Readdirnames(256)
		if err != nil {
			return
		}
		k.descriptors += uint64(len(names))
		for _, name := range names {
			k.links--
			target, err := os.Readlink(dir + "/" + name)
			if err == nil && strings.HasPrefix(target, "socket:") {
				k.sockets++
			}
		}
	}
	k.rest(f)
}

// rest counts what is left of a directory of descriptors without looking.
func (k *processLook) rest(f *os.File) {
	for k.ctx.Err() == nil {
		names, err := f.Readdirnames(4096)
		if err != nil {
			return
		}
		k.descriptors += uint64(len(names))
	}
}

// openFiles is the soft limit of open files: "Max open files   1024   4096   files"
// (proc_pid_limits(5)). The file is there for everybody; prlimit(2) would need
// CAP_SYS_RESOURCE.
func (r *reader) openFiles(pid int) messages.Amount {
	text, err := r.read(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		return messages.Amount{}
	}
	return openFiles(text)
}

func openFiles(text []byte) messages.Amount {
	const name = "Max open files"
	for l := lines(text); ; {
		line, ok := l.next()
		if !ok {
			return messages.Amount{}
		}
		if len(line) > len(name) && string(line[:len(name)]) == name {
			w := words(line[len(name):])
			soft, _ := w.next()
			return number(soft)
		}
	}
}

package stats

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"github.com/troupe-run/troupe/messages"
)

// place is where the files of one cgroup are. A directory is empty when the
// cgroup has none there.
type place struct {
	name                                    string // the cgroup's path
	cpu, cpuacct, memory, pids, blkio, huge string // v1 directories
	v2                                      string // v2 directory
}

// ofProcess finds the cgroup of a container by one of its processes, whatever
// runtime made it: all of them are told a cgroup with the container's id in
// its name. What is below that is the container's own doing (systemd in a
// container moves itself into init.scope), and a path without the id is not
// the container's: the number may already be another process's.
func (t *trees) ofProcess(r *reader, pid int, id string) (place, error) {
	file := fmt.Sprintf("/proc/%d/cgroup", pid)
	text, err := r.read(file)
	if err != nil {
		if gone(err) {
			err = messages.Errorf(messages.NotFound, "process %d has ended: %w", pid, err)
		}
		return place{}, err
	}
	p := t.parseCgroups(text, id)
	if p.name == "" {
		return p, messages.Errorf(messages.NotFound, "%s names no cgroup of the container: its process has ended", file)
	}
	return p, nil
}

// parseCgroups reads "number:controllers:path" lines (cgroups(7)).
func (t *trees) parseCgroups(text []byte, id string) (p place) {
	for l := lines(text); ; {
		line, ok := l.next()
		if !ok {
			return p
		}
		_, rest, _ := bytes.Cut(line, []byte{':'})
		names, at, _ := bytes.Cut(rest, []byte{':'})
		cgroup := upTo(string(at), id)
		if cgroup == "" {
			continue
		}
		if len(names) == 0 {
			t.put(&p, unified, cgroup)
			continue
		}
		for name := range strings.SplitSeq(string(names), ",") {
			t.put(&p, name, cgroup)
		}
	}
}

// upTo cuts a path behind the element that has the id in it; empty: none has.
func upTo(cgroup, id string) string {
	at := strings.Index(cgroup, id)
	if id == "" || at < 0 {
		return ""
	}
	if end := strings.IndexByte(cgroup[at:], '/'); end >= 0 {
		return cgroup[:at+end]
	}
	return cgroup
}

func (t *trees) put(p *place, controller, cgroup string) {
	if controller == unified {
		if t.v2 != nil {
			p.v2 = t.v2.dir(cgroup)
		}
	} else if tree, ok := t.v1[controller]; ok {
		*p.of(controller) = tree.dir(cgroup)
	} else {
		return
	}
	// All controllers have the same path unless somebody moved one by hand.
	if p.name == "" || controller == memory {
		p.name = cgroup
	}
}

func (p *place) of(controller string) *string {
	switch controller {
	case cpu:
		return &p.cpu
	case cpuacct:
		return &p.cpuacct
	case memory:
		return &p.memory
	case pids:
		return &p.pids
	case blkio:
		return &p.blkio
	}
	return &p.huge
}

// ofPath is the place of a cgroup by its path.
func (t *trees) ofPath(cgroup string) (p place) {
	for _, c := range controllers {
		t.put(&p, c, cgroup)
	}
	t.put(&p, unified, cgroup)
	return p
}

// podCgroup is the path of a pod's cgroup; own is false when it is not the
// pod's alone: a pod without one from the kubelet is in a slice that others
// share, when systemd manages cgroups. The kubelet names a pod's cgroup after
// its uid, in a slice with '_' for '-'.
func podCgroup(p *messages.PodSnapshot) (cgroup string, own bool) {
	cgroup = p.Cgroup
	if strings.HasSuffix(cgroup, ".slice") && !strings.HasPrefix(cgroup, "/") {
		cgroup = expandSlice(cgroup)
	}
	base := path.Base(cgroup)
	uid := p.Config.GetMetadata().GetUid()
	own = strings.Contains(base, p.ID) ||
		uid != "" && (strings.Contains(base, uid) || strings.Contains(base, strings.ReplaceAll(uid, "-", "_")))
	return cgroup, own
}

// expandSlice gives the path of a slice: a-b.slice is in a.slice
// (systemd.slice(5)).
func expandSlice(name string) string {
	if name == "-.slice" {
		return "/"
	}
	stem := strings.TrimSuffix(name, ".slice")
	var b strings.Builder
	for i := range len(stem) {
		if stem[i] == '-' {
			b.WriteString("/" + stem[:i] + ".slice")
		}
	}
	return b.String() + "/" + name
}

// Package namespaces makes the namespaces of a pod and pins them with bind
// mounts named after it: <Dir>/{net,ipc,uts}/<pod>. A thread of the daemon
// unshares, pins and is thrown away; no helper process is started and none is
// needed to keep them.
//
// The pins are made in the daemon's own mount namespace, with the propagation
// its run directory has, so that CNI plugins and troupe-monitor see them. A
// copy that another mount namespace took (a service started meanwhile) cannot
// keep a namespace alive: unlinking the mount point detaches it there too.
package namespaces

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// Config says where the pins are.
type Config struct {
	Dir string // e.g. /run/troupe/ns; made when absent
	// DefaultSysctls ("name=value") are set in every pod that has the
	// namespace they belong to of its own, and does not set them itself.
	DefaultSysctls []string
	Log            *slog.Logger
}

// Backend implements backends.Namespaces on the kernel. It needs root.
type Backend struct {
	dir      string
	defaults []setting
	log      *slog.Logger
}

var _ backends.Namespaces = (*Backend)(nil)

// New touches nothing yet: the directories are made by the first Pin. A default
// sysctl that no pod could have is an error of kind Invalid.
func New(c Config) (*Backend, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	b := &Backend{dir: c.Dir, log: c.Log}
	all := backends.NamespaceRequest{Network: true, IPC: true, UTS: true, Sysctls: map[string]string{}}
	for _, text := range c.DefaultSysctls {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, messages.Errorf(messages.Invalid, "default_sysctls: %q: must be name=value", text)
		}
		all.Sysctls[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	var err error
	if b.defaults, err = planSysctls(all); err != nil {
		return nil, fmt.Errorf("default_sysctls: %w", err)
	}
	return b, nil
}

// kind is one sort of namespace a pod can have of its own.
type kind struct {
	name string // of the directory, and of the file in /proc/<pid>/ns
	flag int    // for unshare
}

// maxHostname is the kernel's __NEW_UTS_LEN (sethostname(2)).
const maxHostname = 64

var kinds = []kind{
	{"net", unix.CLONE_NEWNET},
	{"ipc", unix.CLONE_NEWIPC},
	{"uts", unix.CLONE_NEWUTS},
	{"user", unix.CLONE_NEWUSER},
}

func (b *Backend) path(k kind, pod string) string { return filepath.Join(b.dir, k.name, pod) }

// Pin makes what r asks for, sets hostname and sysctls in it, and pins it. The
// pins are made last, so pins that are all there mean that nothing is missing
// behind them: they are kept. Pins that are only partly there are of a Pin cut
// off in the middle: nobody has used them, and they are made anew.
//
// A sysctl that is unknown, refused by the kernel, or belongs to a namespace
// the pod shares with the node is an error of kind Invalid.
func (b *Backend) Pin(ctx context.Context, r backends.NamespaceRequest) (messages.Namespaces, error) {
	none := messages.Namespaces{}
	if err := backends.CheckID("pod", r.Pod); err != nil {
		return none, err
	}
	settings, err := planSysctls(r)
	if err != nil {
		return none, err
	}
	settings = append(b.defaultsFor(r, settings), settings...)
	if r.UTS && len(r.Hostname) > maxHostname {
		return none, messages.Errorf(messages.Invalid, "hostname %q: longer than %d bytes", r.Hostname, maxHostname)
	}
	if err := checkMapping(r.User); err != nil {
		return none, err
	}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	wanted := wantedKinds(r)
	if len(wanted) == 0 || b.allPinned(wanted, r.Pod) {
		return b.paths(wanted, r.Pod), nil
	}
	if err := b.Unpin(ctx, r.Pod); err != nil {
		return none, err
	}
	if err := b.make(wanted, r, settings); err != nil {
		return none, errors.Join(err, b.Unpin(context.WithoutCancel(ctx), r.Pod))
	}
	return b.paths(wanted, r.Pod), nil
}

// Unpin lets go of the pod's namespaces; the kernel ends each when its last
// process has gone.
func (b *Backend) Unpin(_ context.Context, pod string) error {
	if err := backends.CheckID("pod", pod); err != nil {
		return err
	}
	var errs []error
	for _, k := range kinds {
		errs = append(errs, unpin(b.path(k, pod)))
	}
	return errors.Join(errs...)
}

// Pinned looks at these pins alone: it is asked for each pod of a node that
// takes all of them up again.
func (b *Backend) Pinned(ctx context.Context, pod string, n messages.Namespaces) (bool, error) {
	if err := backends.CheckID("pod", pod); err != nil {
		return false, err
	}
	for _, path := range []string{n.Network, n.IPC, n.UTS, n.User} {
		if path != "" && !isNamespace(path) {
			return false, ctx.Err()
		}
	}
	return true, ctx.Err()
}

// Held is every pin, and every file that was to become one.
func (b *Backend) Held(ctx context.Context) ([]backends.Held, error) {
	var held []backends.Held
	for _, k := range kinds {
		dir := filepath.Join(b.dir, k.name)
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list pinned namespaces in %s: %w", dir, err)
		}
		for _, e := range entries {
			if backends.IsOurs(e.Name()) {
				held = append(held, backends.Held{Kind: k.name + "ns", Pod: e.Name(), Name: filepath.Join(dir, e.Name())})
			}
		}
	}
	return held, ctx.Err()
}

// Drop unpins all namespaces of the pod: none is of use without the others.
func (b *Backend) Drop(ctx context.Context, h backends.Held) error { return b.Unpin(ctx, h.Pod) }

func wantedKinds(r backends.NamespaceRequest) []kind {
	var wanted []kind
	for i, want := range []bool{r.Network, r.IPC, r.UTS, r.User != nil} {
		if want {
			wanted = append(wanted, kinds[i])
		}
	}
	return wanted
}

func (b *Backend) paths(wanted []kind, pod string) messages.Namespaces {
	var n messages.Namespaces
	for _, k := range wanted {
		switch k.name {
		case "net":
			n.Network = b.path(k, pod)
		case "ipc":
			n.IPC = b.path(k, pod)
		case "uts":
			n.UTS = b.path(k, pod)
		case "user":
			n.User = b.path(k, pod)
		}
	}
	return n
}

func (b *Backend) allPinned(wanted []kind, pod string) bool {
	for _, k := range wanted {
		if !isNamespace(b.path(k, pod)) {
			return false
		}
	}
	return true
}

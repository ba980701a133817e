// Package fake is a node in memory with the rules of a real one: a process
// needs its root mounted, its bundle whole and its namespaces there; an
// address has one owner; a mounted directory cannot be removed; a disk gets
// full; the monitor can die while the processes live on.
//
// It starts no goroutine and draws nothing by chance: with a Hook that decides
// when a call goes on and which call fails, two runs of one seed are the same.
// The node outlives its daemon: to crash a daemon, end the contexts of its
// calls and start another one on the same Node.
package fake

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Config is a node as it is delivered.
type Config struct {
	Hook Hook // nil: real time and no faults
	// Root and Run are the beginnings of the paths the node shows; nothing is
	// ever there. Empty: /var/lib/troupe and /run/troupe.
	Root, Run string
	Addresses int   // in the pool of the network; 0: 65,000
	DualStack bool  // each pod gets an IPv6 address too
	Disk      int64 // bytes; 0: without end. See SetDisk
	// ExitInfo is a kernel that tells a new monitor how a process ended that
	// was not its child (PIDFD_INFO_EXIT, Linux 6.15).
	ExitInfo bool
	// Programs says what a command does; nil: Interpret.
	Programs func(args []string) Program
	// NoPlugin says that the plugin is not there when that pod begins; it
	// connects later. nil: it is always there.
	NoPlugin func(pod string) bool
	// Trace is told of each call when it has ended.
	Trace func(c Call, err error)
}

// Node is a node in memory. Its methods are the hand of fate; the daemon only
// sees Backends.
type Node struct {
	conf Config
	hook Hook

	mu          sync.Mutex
	serial      uint64 // of namespaces and pids
	disk        disk
	pins        map[string]*pins // by pod
	network     network
	files       map[string]*podFiles  // by pod
	cgroups     map[string]string     // ours, by pod
	podLimits   map[string]string     // of ours, by pod
	captures    map[string]bool       // checkpoints under way, by where they go
	written     map[string]bool       // checkpoints that are whole
	unpacked    map[backends.Key]bool // for containers to be restored
	roots       map[backends.Key]*root
	volumes     map[backends.Key]*volumes
	bundles     map[backends.Key]*bundle
	missing     map[string]bool // host paths that are not there
	runtime     monitor
	registry    map[string]published
	unreachable map[string]bool // registries
	store       store
	records     map[backends.Key]*record
	excused     map[backends.Key]bool // their record was torn: they are the sweeper's
	rolled      map[backends.Key]bool // a power cut gave them an older record: the same
	changed     map[string]bool       // pods that Invariants has to look at
	known       map[string][]string   // containers, by pod; "" stands for the pod
	misheard    []string              // what plugins were told wrongly
	fates       map[string]fate       // how processes ended, by container
	forms       map[*runtime.LinuxContainerResources]string
}

// New makes an empty node: no pods, no images, a network that is ready, and a
// monitor that Connect has to start.
func New(c Config) *Node {
	n := &Node{
		conf: c, hook: c.Hook, serial: 1000, disk: disk{size: c.Disk},
		pins: map[string]*pins{}, files: map[string]*podFiles{},
		cgroups: map[string]string{}, podLimits: map[string]string{}, captures: map[string]bool{}, written: map[string]bool{}, unpacked: map[backends.Key]bool{},
		roots: map[backends.Key]*root{}, volumes: map[backends.Key]*volumes{},
		bundles: map[backends.Key]*bundle{}, missing: map[string]bool{}, registry: map[string]published{}, unreachable: map[string]bool{},
		records: map[backends.Key]*record{}, excused: map[backends.Key]bool{}, rolled: map[backends.Key]bool{},
		changed: map[string]bool{}, known: map[string][]string{}, fates: map[string]fate{}, forms: map[*runtime.LinuxContainerResources]string{},
	}
	if n.hook == nil {
		n.hook = plain{}
	}
	if n.conf.Root == "" {
		n.conf.Root = "/var/lib/troupe"
	}
	if n.conf.Run == "" {
		n.conf.Run = "/run/troupe"
	}
	if n.conf.Addresses == 0 {
		n.conf.Addresses = 65_000
	}
	if n.conf.Programs == nil {
		n.conf.Programs = Interpret
	}
	n.network.init()
	n.runtime.processes = map[string]*process{}
	n.store.init()
	return n
}

// Backends is the node as the daemon sees it.
func (n *Node) Backends() *backends.Node {
	return &backends.Node{
		Namespaces: namespacesBackend{n}, Network: networkBackend{n}, Files: filesBackend{n},
		Cgroups: cgroupsBackend{n}, Rootfs: rootfsBackend{n}, Volumes: volumesBackend{n}, Bundles: bundlesBackend{n},
		Runtime: runtimeBackend{n}, Checkpoints: checkpointsBackend{n}, Images: imagesBackend{n}, Journal: journalBackend{n},
		Plugins: newPlugins(n),
	}
}

// call runs one call: hook, effect, hook.
func (n *Node) call(ctx context.Context, c Call, effect func() error) (err error) {
	if n.conf.Trace != nil {
		defer func() { n.conf.Trace(c, err) }()
	}
	if err := checkIDs(c); err != nil {
		return err
	}
	if err := n.hook.Before(ctx, c); err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	err = n.locked(func() error {
		if c.Pod != "" {
			n.touch(c.Pod, c.Container)
		}
		return effect()
	})
	if err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	if err := n.hook.After(ctx, c); err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	return nil
}

// ask is call for an effect with a result; a failed call gives none.
func ask[T any](ctx context.Context, n *Node, c Call, effect func() (T, error)) (T, error) {
	var value, none T
	err := n.call(ctx, c, func() (err error) {
		value, err = effect()
		return err
	})
	if err != nil {
		return none, err
	}
	return value, nil
}

// locked runs f on the node as it is now.
func (n *Node) locked(f func() error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.settle(n.hook.Now())
	return f()
}

// change is locked for the hand of fate, which cannot fail.
func (n *Node) change(f func()) {
	_ = n.locked(func() error { f(); return nil })
}

func (n *Node) next() uint64 {
	n.serial++
	return n.serial
}

// checkIDs refuses what could lead out of a directory, as the real backends do.
func checkIDs(c Call) error {
	switch c.Method {
	case "Held", "Load", "Status", "GC", "Watch", "Connect", "Relabel":
		return nil
	}
	if c.Backend == "Images" {
		return nil
	}
	if err := backends.CheckID("pod", c.Pod); err != nil {
		return err
	}
	byContainer := c.Backend == "Rootfs" || c.Backend == "Volumes" || c.Backend == "Bundles" || c.Backend == "Runtime"
	if byContainer || c.Container != "" {
		return backends.CheckID("container", c.Container)
	}
	return nil
}

// half is the error of a call that was cut off in the middle.
func half(what string) error {
	return messages.Errorf(messages.Internal, "cut off half-way: %s", what)
}

// disk is the one file system of the node.
type disk struct{ size, used int64 }

func (d *disk) take(bytes int64) error {
	if d.size > 0 && d.used+bytes > d.size {
		return messages.Errorf(messages.NoSpace, "no space left on device: %d of %d bytes are used, %d more were wanted", d.used, d.size, bytes)
	}
	d.used += bytes
	return nil
}

func (d *disk) give(bytes int64) { d.used -= bytes }

// smallFile is what a directory or a small file takes of the disk.
const smallFile = 4096

// SetDisk changes the size of the disk, also to less than is used; 0: without end.
func (n *Node) SetDisk(bytes int64) { n.change(func() { n.disk.size = bytes }) }

// Now is the time of the node.
func (n *Node) Now() time.Time { return n.hook.Now() }

func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

func sortedKeys[V any](m map[backends.Key]V) []backends.Key {
	return slices.SortedFunc(maps.Keys(m), compareKeys)
}

func compareKeys(a, b backends.Key) int {
	return cmp.Or(cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Container, b.Container))
}

// Package cni attaches pods to the network by CNI plugins, which it runs
// through libcni. Loopback needs no plugin: it is brought up in process.
//
// What an ADD took is never lost. Before it, the configuration and arguments
// are written to <CacheDir>/attempts/<pod>; after it, libcni has them with the
// result in <CacheDir>/pods/<pod>, and the attempt is removed. Detach needs
// nothing but these files: not the configuration in ConfDir, not the pod's
// namespace, not what a daemon before this one had in memory.
package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	cnitypes "github.com/containernetworking/cni/pkg/types/100"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

// Config is crio.conf(5)'s [crio.network], and where results are kept. An
// empty field gets the value in brackets.
type Config struct {
	ConfDir        string   // [/etc/cni/net.d] network_dir
	PluginDirs     []string // [/opt/cni/bin] plugin_dirs
	DefaultNetwork string   // [the first in lexical order of file names] cni_default_network
	CacheDir       string   // [/var/lib/troupe/cni] must not be shared with another runtime

	AddTimeout    time.Duration // [5m] for one ADD of all plugins; the caller's deadline counts too
	DelTimeout    time.Duration // [1m] for one DEL or GC
	StatusTimeout time.Duration // [10s] for one STATUS
	Reread        time.Duration // [10s] how often Watch looks without having been told

	Log *slog.Logger
}

// ifName is the pod's interface, by the convention of all runtimes.
const ifName = "eth0"

// Backend implements backends.Network with CNI plugins. It needs root.
type Backend struct {
	config    Config
	source    *source
	doors     *semaphore.Weighted // each Attach takes one, GC takes all
	ports     sync.Mutex          // guards the claims below CacheDir/ports, and the forwarder
	forwarder *forwarder
}

var _ backends.Network = (*Backend)(nil)

// New reads nothing yet: a node may get its CNI configuration much later.
func New(c Config) *Backend {
	orString := func(s *string, def string) {
		if *s == "" {
			*s = def
		}
	}
	orDuration := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	orString(&c.ConfDir, "/etc/cni/net.d")
	orString(&c.CacheDir, "/var/lib/troupe/cni")
	orDuration(&c.AddTimeout, 5*time.Minute)
	orDuration(&c.DelTimeout, time.Minute)
	orDuration(&c.StatusTimeout, 10*time.Second)
	orDuration(&c.Reread, 10*time.Second)
	if len(c.PluginDirs) == 0 {
		c.PluginDirs = []string{"/opt/cni/bin"}
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Backend{config: c, doors: semaphore.NewWeighted(allDoors), forwarder: newForwarder(c.CacheDir), source: &source{dir: c.ConfDir, wanted: c.DefaultNetwork, log: c.Log}}
}

// libcni for one call. lock, when not nil, is inherited by the plugins.
func (b *Backend) libcni(pod string, lock *os.File) *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(b.config.PluginDirs, b.podDir(pod), &pluginExec{log: b.config.Log, lock: lock})
}

var (
	_ = failpoint.Declare("network", "note", "before")
	_ = failpoint.Declare("network", "note", "after")
	_ = failpoint.Declare("network", "add", "after")
	_ = failpoint.Declare("network", "ports", "after")
	_ = failpoint.Declare("network", "del", "before")
	_ = failpoint.Declare("network", "del", "after")
)

// Attach runs ADD, unless the pod is attached already: then it gives the
// addresses it has. What a former ADD left half-done is taken back first.
func (b *Backend) Attach(ctx context.Context, r backends.NetworkRequest) (backends.NetworkResult, error) {
	none := backends.NetworkResult{}
	if err := backends.CheckID("pod", r.Pod); err != nil {
		return none, err
	}
	network, err := b.source.network()
	if err != nil {
		return none, err
	}
	conf, err := runtimeConf(r)
	if err != nil {
		return none, err
	}
	ranges, err := b.ranges()
	if err != nil {
		return none, fmt.Errorf("attach pod %s: %w", podName(r), err)
	}
	if ranges != nil {
		conf.CapabilityArgs["ipRanges"] = ranges
	}
	if !isNamespace(r.NetNS) {
		return none, messages.Errorf(messages.Precondition, "attach pod %s: %q is not a network namespace", podName(r), r.NetNS)
	}
	if err := loopbackUp(r.NetNS); err != nil {
		return none, fmt.Errorf("attach pod %s: %w", podName(r), err)
	}
	if result, found := b.cachedResult(r); found {
		return result, nil
	}
	if err := b.Detach(ctx, r); err != nil {
		return none, fmt.Errorf("take back what an earlier attempt left: %w", err)
	}
	if err := b.doors.Acquire(ctx, 1); err != nil {
		return none, fmt.Errorf("attach pod %s: waiting for a CNI GC to end: %w", podName(r), err)
	}
	defer b.doors.Release(1)
	if err := b.claimPorts(r); err != nil {
		return none, err
	}
	return b.add(ctx, network, conf, r)
}

func (b *Backend) add(ctx context.Context, n *network, conf *libcni.RuntimeConf, r backends.NetworkRequest) (backends.NetworkResult, error) {
	none := backends.NetworkResult{}
	ctx, cancel := context.WithTimeout(ctx, b.config.AddTimeout)
	defer cancel()
	failpoint.Hit("network", "note", "before")
	lock, err := b.beginAttempt(n, conf)
	if err != nil {
		return none, err
	}
	failpoint.Hit("network", "note", "after")
	defer func() { _ = lock.Close() }()
	raw, err := b.libcni(r.Pod, lock).AddNetworkList(ctx, n.list, conf)
	failpoint.Hit("network", "add", "after")
	if err != nil {
		return none, failure(ctx, messages.Internal, "attach pod %s to network %q of %s: %w", podName(r), n.list.Name, n.file, err)
	}
	result, err := cnitypes.NewResultFromResult(raw)
	if err != nil {
		return none, fmt.Errorf("attach pod %s: the result of network %q of %s: %w", podName(r), n.list.Name, n.file, err)
	}
	ips := addresses(result)
	if len(ips) == 0 {
		return none, messages.Errorf(messages.Internal, "attach pod %s: network %q of %s gave it no address: is there an ipam section?", podName(r), n.list.Name, n.file)
	}
	if err := b.forwardPorts(n, r, result); err != nil {
		return none, err
	}
	failpoint.Hit("network", "ports", "after")
	return backends.NetworkResult{IPs: ips}, b.endAttempt(r.Pod)
}

// Detach runs DEL for everything the pod was, or was being, attached to.
func (b *Backend) Detach(ctx context.Context, r backends.NetworkRequest) error {
	if err := backends.CheckID("pod", r.Pod); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, b.config.DelTimeout)
	defer cancel()
	lock, err := b.waitForPlugins(ctx, r.Pod)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if err := b.unforwardPorts(r.Pod); err != nil { // while the address is still the pod's
		return err
	}
	attachments, err := b.attachments(r.Pod)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range attachments {
		failpoint.Hit("network", "del", "before")
		if err := b.del(ctx, a); err != nil {
			errs = append(errs, failure(ctx, messages.Internal, "detach pod %s from network %q (configuration as it was when attached): %w", podName(r), a.list.Name, err))
		}
	}
	failpoint.Hit("network", "del", "after")
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return errors.Join(b.forget(r.Pod), b.releasePorts(r.Pod))
}

func (b *Backend) del(ctx context.Context, a attachment) error {
	if !isNamespace(a.conf.NetNS) {
		// The CNI specification lets DEL come without one; a path to
		// something else makes many plugins fail for ever.
		a.conf.NetNS = ""
	}
	return b.libcni(a.conf.ContainerID, nil).DelNetworkList(ctx, a.list, a.conf)
}

// failure classifies: what the end of the context caused is Deadline or
// Canceled, what a full disk caused is NoSpace, all else is kind.
func failure(ctx context.Context, kind messages.Kind, format string, args ...any) error {
	err := messages.Errorf(kind, format, args...)
	switch {
	case ctx.Err() != nil:
		return &messages.Error{Kind: messages.KindOf(ctx.Err()), Err: err}
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return &messages.Error{Kind: messages.NoSpace, Err: err}
	}
	return err
}

func addresses(result *cnitypes.Result) []string {
	var ips []string
	for _, ip := range result.IPs {
		ips = append(ips, ip.Address.IP.String())
	}
	return ips
}

func podName(r backends.NetworkRequest) string {
	if r.Name == "" {
		return r.Pod
	}
	return fmt.Sprintf("%s/%s (%s)", r.Namespace, r.Name, r.Pod)
}

// isNamespace says whether a namespace is pinned on the path.
func isNamespace(path string) bool {
	var st unix.Statfs_t
	return path != "" && unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/bundles"
	"github.com/troupe-run/troupe/backends/cgroups"
	"github.com/troupe-run/troupe/backends/checkpoints"
	"github.com/troupe-run/troupe/backends/cni"
	"github.com/troupe-run/troupe/backends/files"
	"github.com/troupe-run/troupe/backends/images"
	"github.com/troupe-run/troupe/backends/journal"
	"github.com/troupe-run/troupe/backends/monitor"
	"github.com/troupe-run/troupe/backends/namespaces"
	"github.com/troupe-run/troupe/backends/nri"
	"github.com/troupe-run/troupe/backends/rootfs"
	"github.com/troupe-run/troupe/backends/stats"
	"github.com/troupe-run/troupe/cmd/troupe/config"
	"github.com/troupe-run/troupe/cri"
	"github.com/troupe-run/troupe/supervisor"
	"go.podman.io/storage"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// machine is the node's backends and what must be given back when the daemon
// ends. Nothing of a pod's is given back there.
type machine struct {
	*backends.Node
	handlers *handlers
	meter    *stats.Meter               // for reads: the gateway asks it itself
	reload   func(*config.Config) error // applies what SIGHUP changes, and re-reads what stands in files of others
	mapped   bool                       // pods can have user namespaces
	plugins  *nri.Backend               // nil: switched off
	closers  []func() error             // in the order they were made
}

func (m *machine) close() error {
	var errs []error
	for i := len(m.closers) - 1; i >= 0; i-- {
		errs = append(errs, m.closers[i]())
	}
	return errors.Join(errs...)
}

// buildMachine makes the real backends, each from its part of the
// configuration. A wrong value that only a backend can see is an error here,
// before anything is served.
func buildMachine(c *config.Config, log *slog.Logger) (*machine, error) {
	m := &machine{Node: &backends.Node{}}
	if err := m.fill(c, log); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

func (m *machine) fill(c *config.Config, log *slog.Logger) (err error) {
	of := func(backend string) *slog.Logger { return log.With("backend", backend) }
	if m.handlers, err = findHandlers(c, log); err != nil {
		return err
	}
	if m.Runtime, err = buildRuntime(c, m.handlers, of("monitor")); err != nil {
		return err
	}
	if m.Cgroups, err = cgroups.New(cgroups.Config{
		Manager: c.UseCgroupManager(), Parent: c.UseCgroupParent(),
		Mark: monitor.CgroupMark, Owner: monitorDir(c), Log: of("cgroups"),
	}); err != nil {
		return err
	}
	bundling := bundlesConfig(c, m.handlers, of("bundles"))
	m.buildPlugins(c, &bundling, of("nri"))
	specs, err := bundles.New(bundling)
	if err != nil {
		return err
	}
	m.Bundles = specs
	store, err := buildImages(c, of("images"))
	if err != nil {
		return err
	}
	m.Images, m.closers = store, append(m.closers, store.Close)
	m.reload = func(c *config.Config) error {
		specs.Reload()
		return store.Reload(imagesConfig(c))
	}
	roots, err := rootfs.New(rootfs.Config{
		Root: c.Troupe.Root, Layers: store.LayerDirs, BindVolumes: c.Image.Volumes == config.BindVolumes, Log: of("rootfs"),
	})
	if err != nil {
		return err
	}
	if m.Checkpoints, err = checkpoints.New(checkpoints.Config{
		Work: filepath.Join(c.Troupe.Root, "checkpoints"), Changes: roots.Changes, Spec: specs.Spec, Log: of("checkpoints"),
	}); err != nil {
		return err
	}
	m.Rootfs, m.Volumes, m.mapped = roots, rootfs.NewVolumes(roots), canMapUsers(roots, c, log)
	m.Network = cni.New(cni.Config{
		ConfDir: c.Network.Dir, PluginDirs: c.UsePluginDirs(), DefaultNetwork: c.Network.Default,
		CacheDir: filepath.Join(c.Troupe.Root, "cni"), Log: of("cni"),
	})
	if m.Namespaces, err = namespaces.New(namespaces.Config{
		Dir: filepath.Join(c.Troupe.Run, "ns"), DefaultSysctls: c.Runtime.DefaultSysctls, Log: of("namespaces"),
	}); err != nil {
		return err
	}
	m.Files = files.New(files.Config{Root: c.Troupe.Root, Run: c.Troupe.Run, Log: of("files")})
	records := journal.New(journal.Config{Root: c.Troupe.Root, Log: of("journal")})
	m.Journal, m.closers = records, append(m.closers, records.Close)
	if m.meter, err = stats.New(stats.Config{Root: c.Troupe.Root, Period: c.UseCollectionPeriod(), Log: of("stats")}); err != nil {
		return err
	}
	m.closers = append(m.closers, m.meter.Close)
	return nil
}

func buildRuntime(c *config.Config, h *handlers, log *slog.Logger) (backends.Runtime, error) {
	m := monitor.Config{Dir: monitorDir(c), CgroupManager: c.UseCgroupManager(), Handlers: h.runtimes, Log: log}
	var err error
	if m.Binary, err = c.FindMonitor(); err != nil {
		// With a monitor that runs, containers can be served: better than not.
		if reachable(filepath.Join(m.Dir, "monitor.sock")) != nil {
			return nil, &config.Error{Err: err}
		}
		log.Error("the monitor that runs could not be started again", "error", err)
	}
	return monitor.New(m), nil
}

func monitorDir(c *config.Config) string { return filepath.Join(c.Troupe.Run, "monitor") }

func bundlesConfig(c *config.Config, h *handlers, log *slog.Logger) bundles.Config {
	return bundles.Config{
		Root:                      c.Troupe.Root,
		DefaultCapabilities:       c.Runtime.DefaultCapabilities,
		DefaultUlimits:            c.Runtime.DefaultUlimits,
		DefaultEnv:                c.Runtime.DefaultEnv,
		SeccompProfile:            c.Runtime.SeccompProfile,
		PrivilegedSeccompProfile:  c.Runtime.PrivilegedSeccomp,
		ApparmorProfile:           c.Runtime.AppArmorProfile,
		PidsLimit:                 int64(c.Runtime.PidsLimit),
		CgroupManager:             c.UseCgroupManager(),
		AdditionalDevices:         c.Runtime.Devices,
		HostnetworkDisableSELinux: c.Runtime.HostNetNoSELinux,
		DisableSELinux:            !c.Runtime.SELinux,
		AllowedDevices:            c.Runtime.AllowedDevices,
		DeviceOwnership:           c.Runtime.DeviceOwnership,
		CDISpecDirs:               c.Runtime.CDISpecDirs,
		HooksDirs:                 c.Runtime.HooksDirs,
		ImageVolumes:              c.Image.Volumes,
		Handlers:                  h.forBundles(c),
		Log:                       log,
	}
}

func buildImages(c *config.Config, log *slog.Logger) (*images.Store, error) {
	where, err := storeOptions(c.Storage)
	if err != nil {
		return nil, err
	}
	conf := imagesConfig(c)
	conf.GraphRoot, conf.RunRoot, conf.ImageStore = where.GraphRoot, where.RunRoot, where.ImageStore
	conf.StorageOptions, conf.Log = where.GraphDriverOptions, log
	return images.New(conf)
}

// imagesConfig is what can be reloaded.
func imagesConfig(c *config.Config) images.Config {
	return images.Config{
		PolicyPath:           c.Image.SignaturePolicy,
		PolicyDir:            c.Image.PolicyDir,
		AuthFile:             c.Image.AuthFile,
		AuthDir:              c.Image.AuthDir,
		DecryptionKeys:       c.Image.DecryptionKeys,
		InsecureRegistries:   c.Image.InsecureRegistries,
		BigFilesTemporaryDir: c.Image.TempDir,
		PullProgressTimeout:  c.Image.PullStall,
		PinnedImages:         c.Image.Pinned,
		MinFree:              uint64(c.Troupe.MinFree) << 20,
		ShortNameMode:        c.Image.ShortNameMode,
		NoArtifactMounts:     !c.Image.ArtifactMounts,
	}
}

// storeOptions is storage.conf(5) with what [crio] says on top, as CRI-O reads
// the two. A root of its own goes without storage.conf's driver options.
func storeOptions(s config.Storage) (storage.StoreOptions, error) {
	options, err := storage.DefaultStoreOptions()
	if err != nil {
		return options, fmt.Errorf("storage.conf: %w; correct it, or set root, runroot and storage_driver in [crio]", err)
	}
	if s.Root != "" {
		options.GraphRoot, options.ImageStore, options.GraphDriverOptions = s.Root, "", nil
	}
	if s.ImageStore != "" {
		options.ImageStore = s.ImageStore
	}
	if s.RunRoot != "" {
		options.RunRoot = s.RunRoot
	}
	if len(s.Options) > 0 {
		options.GraphDriverOptions = s.Options
	}
	if name := options.GraphDriverName; s.Root == "" && name != "" && name != "overlay" && s.Driver == "" {
		return options, &config.Error{Err: fmt.Errorf("storage.conf: driver is %q; containers need \"overlay\", set root in [crio] to another directory", name)}
	}
	return options, nil
}

// criConfig is the gateway's part of the configuration.
func criConfig(c *config.Config, h *handlers, node cri.Node, meter cri.Meter, log *slog.Logger) cri.Config {
	driver := runtime.CgroupDriver_CGROUPFS
	if c.UseCgroupManager() == config.CgroupSystemd {
		driver = runtime.CgroupDriver_SYSTEMD
	}
	checkpointing := c.Checkpoints.Level
	if !c.Checkpoints.CRIU {
		checkpointing = cri.CheckpointsNone
	}
	return cri.Config{
		Node: node, Meter: meter, Metrics: c.Stats.PodMetrics, Version: buildOf().Version,
		Handlers: h.offered, Unusable: h.unusable, DefaultHandler: c.Runtime.DefaultHandler, Checkpoints: checkpointing,
		CgroupDriver: driver, Shown: c, MaxReceive: c.API.MaxRecv, MaxSend: c.API.MaxSend, Log: log,
		Streaming: streaming(c),
		Features:  &runtime.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true},
	}
}

func streaming(c *config.Config) cri.Streaming {
	s := cri.Streaming{Address: net.JoinHostPort(c.API.StreamAddress, c.API.StreamPort)}
	s.IdleTimeout, _ = time.ParseDuration(c.API.StreamIdle) // checked when it was read; empty: the default
	if c.API.StreamTLS {
		s.TLS = &cri.TLSFiles{Cert: c.API.StreamCert, Key: c.API.StreamKey, CA: c.API.StreamCA}
	}
	return s
}

// criNode is the tree as the gateway sees it.
type criNode struct{ *supervisor.Tree }

// Subscribe only changes the type of the answer.
func (n criNode) Subscribe(ctx context.Context) (cri.Subscription, error) {
	s, err := n.Tree.Subscribe(ctx)
	if err != nil {
		return nil, err // not a nil *Subscription in an interface that is not nil
	}
	return s, nil
}

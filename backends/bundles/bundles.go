// Package bundles writes the OCI bundle of a container: it checks what the
// container is to be given, resolves its user in the root file system, builds
// the OCI runtime spec and writes it to
// <Root>/pods/<pod>/containers/<id>/config.json (pods/<pod>/pause/config.json
// for a pod's pause process). It mounts nothing and starts nothing.
//
// Two rules shape it. What comes from an image or from an annotation is never
// trusted: files in the root file system are opened so that no link leads out
// of it, and no annotation reaches the spec but those that the operator has
// allowed for the handler. And what cannot be given is
// refused, naming field and fix; nothing is silently left out of a container
// except what the node itself lacks, and that is logged.
package bundles

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sync/singleflight"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// The cgroup managers.
const (
	Cgroupfs = "cgroupfs"
	Systemd  = "systemd"
)

// Config is how containers are made on this node. The names are those of
// crio.conf(5), table crio.runtime.
type Config struct {
	Root                      string             // e.g. /var/lib/troupe
	DefaultCapabilities       []string           // with or without CAP_; nil: crio's nine
	DefaultUlimits            []string           // "name=soft:hard", e.g. "nofile=1024:2048"; -1 is unlimited
	DefaultEnv                []string           // "NAME=value"; image and container override them
	SeccompProfile            string             // path of RuntimeDefault; "": built in; "unconfined": none
	PrivilegedSeccompProfile  string             // path; "" or "unconfined": none
	ApparmorProfile           string             // of RuntimeDefault; DefaultApparmor is loaded by New; "" or "unconfined": none
	PidsLimit                 int64              // processes in a container; 0 or less: no limit
	CgroupManager             string             // Cgroupfs (or "") or Systemd
	AdditionalDevices         []string           // "/dev/a[:/dev/b[:rwm]]", in every container
	HostnetworkDisableSELinux bool               // no SELinux confinement with host network
	DisableSELinux            bool               // nothing is labelled, also where SELinux is on
	AllowedDevices            []string           // what the annotation io.kubernetes.cri-o.Devices may name
	DeviceOwnership           bool               // devices belong to the container's user
	CDISpecDirs               []string           // of CDI specs, the last one wins; none: no CDI devices
	HooksDirs                 []string           // of OCI hooks, the last one wins
	ImageVolumes              string             // what VOLUMEs of images become: mkdir (or ""), directories in the root; bind, mounts; ignore
	Handlers                  map[string]Handler // by name; others are as the rest of this says
	Adjust                    Adjust             // by the node's plugins; nil: there are none
	Log                       *slog.Logger
}

// Backend implements backends.Bundles.
type Backend struct {
	config   Config
	log      *slog.Logger
	node     node
	defaults defaults
	looks    singleflight.Group // at mount sources, by path
	levels   levels
	cdi      *cdi.Cache // nil: no CDI devices
	hooks    hookSet
}

// defaults is the configuration, parsed.
type defaults struct {
	capabilities []string
	rlimits      []specs.POSIXRlimit
	env          []string
	seccomp      profile
	privileged   profile
	devices      []device
	handlers     map[string]handler
}

var _ backends.Bundles = (*Backend)(nil)

// New reads what the node has and checks the configuration: what is wrong in
// it is found at the start of the daemon, not at the first container.
func New(c Config) (*Backend, error) {
	n, err := readNode()
	if err != nil {
		return nil, err
	}
	b, err := newOn(n, c)
	if err != nil {
		return nil, err
	}
	b.loadApparmor()
	return b, nil
}

// newOn is New on a given node; tests give another one than they run on.
func newOn(n node, c Config) (*Backend, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if !filepath.IsAbs(c.Root) {
		return nil, messages.Errorf(messages.Invalid, "root directory %q: must be an absolute path", c.Root)
	}
	if c.CgroupManager == "" {
		c.CgroupManager = Cgroupfs
	}
	if c.CgroupManager != Cgroupfs && c.CgroupManager != Systemd {
		return nil, messages.Errorf(messages.Invalid, "cgroup_manager %q: must be %s or %s", c.CgroupManager, Cgroupfs, Systemd)
	}
	b := &Backend{config: c, log: c.Log, node: n, levels: levels{dir: filepath.Join(c.Root, "selinux")}}
	if err := b.parse(); err != nil {
		return nil, fmt.Errorf("bundles: %w", err)
	}
	return b, nil
}

func (b *Backend) parse() (err error) {
	d, c := &b.defaults, b.config
	if d.capabilities, err = parseCapabilities("default_capabilities", defaultCapabilities(c.DefaultCapabilities)); err != nil {
		return err
	}
	if d.rlimits, err = b.parseUlimits(c.DefaultUlimits); err != nil {
		return err
	}
	if d.env, err = parseEnv("default_env", c.DefaultEnv); err != nil {
		return err
	}
	if d.seccomp, err = loadProfile("seccomp_profile", c.SeccompProfile, builtinProfile); err != nil {
		return err
	}
	if d.privileged, err = loadProfile("privileged_seccomp_profile", c.PrivilegedSeccompProfile, unconfinedProfile); err != nil {
		return err
	}
	if d.devices, err = parseDevices("additional_devices", c.AdditionalDevices); err != nil {
		return err
	}
	if len(c.CDISpecDirs) > 0 {
		// Specs are read when a container asks for a device of one: see cdiDevices.
		if b.cdi, err = cdi.NewCache(cdi.WithSpecDirs(c.CDISpecDirs...), cdi.WithAutoRefresh(false)); err != nil {
			return messages.Errorf(messages.Invalid, "cdi_spec_dirs: %w", err)
		}
	}
	if err := b.hooks.read(c.HooksDirs); err != nil {
		return err
	}
	return b.parseHandlers()
}

// Write builds the bundle. The same request gives the same bundle; nothing is
// left behind when it fails.
func (b *Backend) Write(ctx context.Context, r backends.BundleRequest) (backends.Bundle, error) {
	if err := checkIDs(r.Pod, r.Container); err != nil {
		return backends.Bundle{}, err
	}
	if err := ctx.Err(); err != nil {
		return backends.Bundle{}, fmt.Errorf("writing the bundle of %.12s: %w", r.Container, err)
	}
	made, err := b.build(ctx, r)
	if err != nil {
		return backends.Bundle{}, err
	}
	made.Dir = b.dir(r.Pod, r.Container)
	if err := writeSpec(made.Dir, made.spec); err != nil {
		return backends.Bundle{}, fmt.Errorf("writing the bundle of %.12s: %w", r.Container, err)
	}
	return made.Bundle, nil
}

// Remove removes the spec. The rest of a container's directory belongs to others.
func (b *Backend) Remove(_ context.Context, pod, container string) error {
	if err := checkIDs(pod, container); err != nil {
		return err
	}
	return removeSpec(b.dir(pod, container))
}

func checkIDs(pod, container string) error {
	if err := backends.CheckID("pod", pod); err != nil {
		return err
	}
	return backends.CheckID("container", container)
}

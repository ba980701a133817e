package bundles

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mounts: what every container has, then what this one asks for, outer before
// inner. A mount that is asked for takes the place of a default one at or below
// its path: with /dev from the host, /dev/pts is the host's too.
func (b *bundle) mounts() error {
	asked, err := b.askedMounts()
	if err != nil {
		return err
	}
	for _, m := range b.defaultMounts() {
		covered := slices.ContainsFunc(asked, func(own specs.Mount) bool { return below(m.Destination, own.Destination) })
		if !covered {
			b.spec.Mounts = append(b.spec.Mounts, m)
		}
	}
	b.spec.Mounts = append(b.spec.Mounts, asked...)
	return nil
}

func procMount() specs.Mount {
	return specs.Mount{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}}
}

func (b *bundle) defaultMounts() []specs.Mount {
	access := "ro"
	if b.sc.GetPrivileged() {
		access = "rw"
	}
	mounts := []specs.Mount{
		procMount(),
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		// gid 5 is tty's in every distribution.
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		// A sysfs of its own also with host network: a bind of the host's
		// would bring what is mounted below it (debugfs, other cgroups), and
		// read-only does not reach those.
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", access}},
	}
	if b.r.Namespaces.IPC != "" {
		mounts = append(mounts, specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}})
	}
	return append(mounts, b.podFiles()...)
}

// podFiles are what the containers of a pod share. They stay writable unless
// the whole root is not, as in every other runtime.
func (b *bundle) podFiles() []specs.Mount {
	access := "rw"
	if b.sc.GetReadonlyRootfs() {
		access = "ro"
	}
	var mounts []specs.Mount
	bind := func(source, destination string, options ...string) {
		if source != "" {
			options = append([]string{"bind", "rprivate", "nosuid", "nodev"}, options...)
			mounts = append(mounts, specs.Mount{Destination: destination, Type: "bind", Source: source, Options: options})
		}
	}
	bind(b.r.Files.Shm, "/dev/shm", "noexec", "rw")
	bind(b.r.Files.ResolvConf, "/etc/resolv.conf", "noexec", access)
	bind(b.r.Files.Hostname, "/etc/hostname", "noexec", access)
	return mounts
}

// askedMounts are the mounts of the request.
func (b *bundle) askedMounts() ([]specs.Mount, error) {
	var mounts []specs.Mount
	for _, m := range b.r.Config.GetMounts() {
		own, err := b.askedMount(m)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, own)
	}
	slices.SortStableFunc(mounts, func(x, y specs.Mount) int { return cmp.Compare(depth(x.Destination), depth(y.Destination)) })
	return mounts, nil
}

func depth(p string) int { return strings.Count(strings.TrimSuffix(p, "/"), "/") }

func (b *bundle) askedMount(m *runtime.Mount) (specs.Mount, error) {
	at := m.GetContainerPath()
	switch destination := path.Clean(at); {
	case !path.IsAbs(at) || destination == "/":
		return specs.Mount{}, messages.Errorf(messages.Invalid, "mount %q: container_path must be an absolute path below /", at)
	case m.GetImage().GetImage() != "":
		return specs.Mount{}, messages.Errorf(messages.Unsupported, "mount %s: image volumes are not supported yet", at)
	case !path.IsAbs(m.GetHostPath()):
		return specs.Mount{}, messages.Errorf(messages.Invalid, "mount %s: host_path %q: must be an absolute path", at, m.GetHostPath())
	}
	source, err := b.lookAt(b.ctx, at, m.GetHostPath())
	if err != nil {
		return specs.Mount{}, err
	}
	options, err := b.mountOptions(m, source)
	if err != nil {
		return specs.Mount{}, err
	}
	return specs.Mount{
		Destination: path.Clean(at), Type: "bind", Source: source, Options: options,
		UIDMappings: specMapping(m.GetUidMappings()), GIDMappings: specMapping(m.GetGidMappings()),
	}, nil
}

// extraOptions are those a caller may add (cri-api, Mount.mount_options): they
// can only take rights away.
var extraOptions = []string{"noexec", "nodev", "nosuid", "noatime", "nodiratime", "relatime"}

func (b *bundle) mountOptions(m *runtime.Mount, source string) ([]string, error) {
	at := m.GetContainerPath()
	options := []string{"rbind"}
	propagation, err := b.propagation(m, source)
	if err != nil {
		return nil, err
	}
	options = append(options, propagation)
	switch {
	case m.GetRecursiveReadOnly() && (!m.GetReadonly() || m.GetPropagation() != runtime.MountPropagation_PROPAGATION_PRIVATE):
		return nil, messages.Errorf(messages.Invalid, "mount %s: recursive_read_only needs readonly and private propagation", at)
	case m.GetRecursiveReadOnly() && !b.node.rro:
		return nil, messages.Errorf(messages.RROUnsupported, "mount %s: recursive_read_only needs Linux 5.12", at)
	case m.GetRecursiveReadOnly():
		options = append(options, "ro", "rro")
	case m.GetReadonly():
		options = append(options, "ro")
	default:
		options = append(options, "rw")
	}
	for _, extra := range m.GetMountOptions() {
		if !slices.Contains(extraOptions, extra) {
			return nil, messages.Errorf(messages.Invalid, "mount %s: mount_options: %q: must be one of %s", at, extra, strings.Join(extraOptions, ", "))
		}
		options = append(options, extra)
	}
	return options, nil
}

// propagation is the option for the mount; the root of the container has to
// let through what the widest of its mounts asks for.
func (b *bundle) propagation(m *runtime.Mount, source string) (string, error) {
	at := m.GetContainerPath()
	switch m.GetPropagation() {
	case runtime.MountPropagation_PROPAGATION_PRIVATE:
		return "rprivate", nil
	case runtime.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		if shared, slave, err := peers(source); err == nil && !shared && !slave {
			b.log.Warn("the source of a mount is on a private mount: later mounts will not show in the container",
				"mount", at, "source", source)
		}
		if b.spec.Linux.RootfsPropagation == "" {
			b.spec.Linux.RootfsPropagation = "rslave"
		}
		return "rslave", nil
	case runtime.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		shared, _, err := peers(source)
		if err != nil {
			return "", err
		}
		if !shared {
			return "", messages.Errorf(messages.Invalid,
				"mount %s: propagation is bidirectional, but %s is not on a shared mount: run mount --make-rshared on it", at, source)
		}
		b.spec.Linux.RootfsPropagation = "rshared"
		return "rshared", nil
	}
	return "", messages.Errorf(messages.Invalid, "mount %s: propagation %d is not known", at, m.GetPropagation())
}

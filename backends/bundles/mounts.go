package bundles

import (
	"cmp"
	"maps"
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
	for _, m := range append(b.defaultMounts(), b.anonymousVolumes()...) {
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

// anonymousVolumes are directories for the VOLUMEs of the image, where the node
// is set to make such (image_volumes = "bind").
func (b *bundle) anonymousVolumes() []specs.Mount {
	var mounts []specs.Mount
	for _, at := range slices.Sorted(maps.Keys(b.r.Volumes.Anonymous)) {
		mounts = append(mounts, specs.Mount{
			Destination: at, Type: "bind", Source: b.r.Volumes.Anonymous[at], Options: []string{"rbind", "rprivate", "rw", "nosuid", "nodev"},
		})
	}
	return mounts
}

// askedMounts are the mounts of the request. Of two on one path the later one
// would hide the other (the kubelet's termination log and a user's volume): only
// that one is made.
func (b *bundle) askedMounts() ([]specs.Mount, error) {
	var mounts []specs.Mount
	images := b.r.Volumes.Images
	for _, m := range b.r.Config.GetMounts() {
		source := ""
		if m.GetImage().GetImage() != "" {
			if len(images) == 0 {
				return nil, messages.Errorf(messages.Internal, "mount %s: image %s was not mounted for it", m.GetContainerPath(), m.GetImage().GetImage())
			}
			source, images = images[0], images[1:]
		}
		own, err := b.askedMount(m, source)
		if err != nil {
			return nil, err
		}
		mounts = append(slices.DeleteFunc(mounts, func(o specs.Mount) bool { return o.Destination == own.Destination }), own)
	}
	slices.SortStableFunc(mounts, func(x, y specs.Mount) int { return cmp.Compare(depth(x.Destination), depth(y.Destination)) })
	return mounts, nil
}

func depth(p string) int { return strings.Count(strings.TrimSuffix(p, "/"), "/") }

// askedMount is one of them; image is where its image is mounted, if it has one.
func (b *bundle) askedMount(m *runtime.Mount, image string) (specs.Mount, error) {
	at := m.GetContainerPath()
	switch destination := path.Clean(at); {
	case !path.IsAbs(at) || destination == "/":
		return specs.Mount{}, messages.Errorf(messages.Invalid, "mount %q: container_path must be an absolute path below /", at)
	case image != "":
		return b.imageMount(m, image)
	case !path.IsAbs(m.GetHostPath()):
		return specs.Mount{}, messages.Errorf(messages.Invalid, "mount %s: host_path %q: must be an absolute path", at, m.GetHostPath())
	}
	source, err := b.lookAt(b.ctx, at, m.GetHostPath())
	if err != nil {
		return specs.Mount{}, err
	}
	if err := checkOverProc(at, source); err != nil {
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
	case m.GetRecursiveReadOnly() && !b.recursive():
		return nil, messages.Errorf(messages.RROUnsupported, "mount %s: recursive_read_only needs Linux 5.12 and a runtime that knows rro; handler %q on this node has not both", at, b.r.Handler)
	case m.GetRecursiveReadOnly():
		options = append(options, "ro", "rro")
	case m.GetReadonly():
		options = append(options, "ro")
	default:
		options = append(options, "rw")
	}
	extra, err := b.extra(m)
	return append(options, extra...), err
}

// propagation is the option for the mount; the root of the container has to
// let through what the widest of its mounts asks for.
func (b *bundle) propagation(m *runtime.Mount, source string) (string, error) {
	at := m.GetContainerPath()
	switch m.GetPropagation() {
	case runtime.MountPropagation_PROPAGATION_PRIVATE:
		return "rprivate", nil
	case runtime.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		shared, slave, err := peers(source)
		if err != nil {
			return "", err
		}
		if !shared && !slave {
			return "", messages.Errorf(messages.Invalid,
				"mount %s: propagation is host-to-container, but %s is on a private mount, from which nothing propagates: run mount --make-rshared on it", at, source)
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

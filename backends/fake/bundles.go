package fake

import (
	"context"
	"path"
	"slices"
	"strings"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// bundle is a written config.json, as far as the node's rules need it.
type bundle struct {
	torn       bool
	args       []string
	rootfs     bool // it names a root of its own, which must be mounted
	volumes    bool // it mounts images, which must be mounted
	namespaces messages.Namespaces
	inodes     [3]uint64 // of net, ipc, uts when it was written
	target     string    // PID namespace to join
	shm        bool      // it mounts the pod's own /dev/shm
	resources  string
}

type bundlesBackend struct{ n *Node }

func (n *Node) bundleDir(k backends.Key) string {
	return n.podDir(k.Pod) + "/containers/" + k.Container
}

// SetMissing says that a host path does not (or does again) exist; all others do.
func (n *Node) SetMissing(hostPath string, missing bool) {
	n.change(func() {
		if missing {
			n.missing[hostPath] = true
		} else {
			delete(n.missing, hostPath)
		}
	})
}

func (b bundlesBackend) Write(ctx context.Context, r backends.BundleRequest) (backends.Bundle, error) {
	n, k := b.n, backends.Key{Pod: r.Pod, Container: r.Container}
	c := Call{Backend: "Bundles", Method: "Write", Pod: r.Pod, Container: r.Container}
	return ask(ctx, n, c, func() (backends.Bundle, error) {
		none := backends.Bundle{}
		if err := n.checkBundle(k, r); err != nil {
			return none, err
		}
		if n.bundles[k] == nil {
			if err := n.disk.take(smallFile); err != nil {
				return none, err
			}
		}
		n.bundles[k] = &bundle{
			torn: true, args: arguments(r), rootfs: r.Rootfs != "", volumes: len(r.Volumes.Images) > 0, namespaces: r.Namespaces, target: r.TargetPIDNS, shm: r.Files.Shm == n.shmPath(r.Pod),
			inodes:    [3]uint64{n.inode(r.Namespaces.Network), n.inode(r.Namespaces.IPC), n.inode(r.Namespaces.UTS)},
			resources: string(limits(r.Config.GetLinux().GetResources())),
		}
		if n.hook.Half(c) {
			return none, half("config.json is torn")
		}
		n.bundles[k].torn = false
		return n.describe(k, r), nil
	})
}

func (n *Node) checkBundle(k backends.Key, r backends.BundleRequest) error {
	if r.Rootfs != "" && (n.roots[k] == nil || !n.roots[k].mounted || r.Rootfs != n.rootPath(k)) {
		return messages.Errorf(messages.Precondition, "root %q is not mounted", r.Rootfs)
	}
	if r.Rootfs == "" && r.Config != nil {
		return messages.Errorf(messages.Invalid, "container %.12s has no root", r.Container)
	}
	if v := n.volumes[k]; len(r.Volumes.Images) > 0 && (v == nil || !v.mounted) {
		return messages.Errorf(messages.Precondition, "container %.12s: its volumes are not mounted", r.Container)
	}
	for _, m := range r.Config.GetMounts() {
		if m.HostPath != "" && n.missing[m.HostPath] {
			return messages.Errorf(messages.Invalid, "mount %s: source %s does not exist", m.ContainerPath, m.HostPath)
		}
	}
	if user := r.Config.GetLinux().GetSecurityContext().GetRunAsUsername(); user != "" && !slices.Contains(users, user) {
		return messages.Errorf(messages.Invalid, "user %q is not in the image's /etc/passwd", user)
	}
	if r.Config != nil && len(arguments(r)) == 0 {
		return messages.Errorf(messages.Invalid, "container %.12s has no command: neither its configuration nor its image names one", r.Container)
	}
	return nil
}

// users are those of every image's /etc/passwd; the first one's id is 0.
var users = []string{"root", "daemon", "nobody"}

// describe is the answer of Write.
func (n *Node) describe(k backends.Key, r backends.BundleRequest) backends.Bundle {
	b := backends.Bundle{Dir: n.bundleDir(k), StopSignal: stopSignal(r.Image.StopSignal)}
	if dir, file := r.PodConfig.GetLogDirectory(), r.Config.GetLogPath(); dir != "" && file != "" {
		b.LogPath = path.Join(dir, file)
	}
	for _, m := range r.Config.GetMounts() {
		if m.SelinuxRelabel { // this node has SELinux
			b.Relabel = append(b.Relabel, backends.Relabel{Path: m.HostPath, Label: "system_u:object_r:container_file_t:s0"})
		}
	}
	uid := r.Config.GetLinux().GetSecurityContext().GetRunAsUser().GetValue()
	if name := r.Config.GetLinux().GetSecurityContext().GetRunAsUsername(); name != "" {
		uid = int64(slices.Index(users, name))
	}
	b.User = &runtime.ContainerUser{Linux: &runtime.LinuxContainerUser{Uid: uid}}
	return b
}

func stopSignal(name string) string {
	if name == "" {
		return "SIGTERM"
	}
	if !strings.HasPrefix(name, "SIG") && strings.Trim(name, "0123456789") != "" {
		return "SIG" + name
	}
	return name
}

// arguments are the command line, by the rules of CRI: the container's command
// replaces the image's entrypoint and drops the image's command.
func arguments(r backends.BundleRequest) []string {
	command, args := r.Config.GetCommand(), r.Config.GetArgs()
	if len(command) == 0 {
		command = r.Image.Entrypoint
		if len(args) == 0 {
			args = r.Image.Cmd
		}
	}
	return append(slices.Clone(command), args...)
}

func (b bundlesBackend) Remove(ctx context.Context, pod, container string) error {
	n, k := b.n, backends.Key{Pod: pod, Container: container}
	return n.call(ctx, Call{Backend: "Bundles", Method: "Remove", Pod: pod, Container: container}, func() error {
		if n.bundles[k] != nil {
			delete(n.bundles, k)
			n.disk.give(smallFile)
		}
		return nil
	})
}

func (b bundlesBackend) Held(ctx context.Context) ([]backends.Held, error) {
	n := b.n
	return ask(ctx, n, Call{Backend: "Bundles", Method: "Held"}, func() ([]backends.Held, error) { return n.heldBundles(), nil })
}

func (n *Node) heldBundles() (held []backends.Held) {
	for _, k := range sortedKeys(n.bundles) {
		held = append(held, backends.Held{Kind: "bundle", Pod: k.Pod, Container: k.Container, Name: n.bundleDir(k) + "/config.json"})
	}
	return held
}

func (b bundlesBackend) Drop(ctx context.Context, h backends.Held) error {
	return b.Remove(ctx, h.Pod, h.Container)
}

// Labels: SELinux is off on this node, so there are none.
func (b bundlesBackend) Labels(ctx context.Context, _ backends.LabelRequest) (messages.Labels, error) {
	return messages.Labels{}, ctx.Err()
}

// Release has nothing to give back.
func (b bundlesBackend) Release(ctx context.Context, _ string) error { return ctx.Err() }

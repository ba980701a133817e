package bundles

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ttyGID owns terminals in every distribution.
const ttyGID = 5

// checkUserNamespace holds the container to its pod's user namespace: there is
// one for all its containers. A container that says nothing is in it.
func (b *bundle) checkUserNamespace() error {
	options := b.sc.GetNamespaceOptions()
	if options.GetUsernsOptions() == nil {
		return nil
	}
	if !messages.UserNamespaceOf(options, b.r.Namespaces.User).Same(b.own) {
		return messages.Errorf(messages.Invalid, "namespace_options.userns_options: is not the same as the pod sandbox's: give the container the pod's mapping")
	}
	return nil
}

// checkMapped refuses users the namespace does not have; the kernel's answer to
// setuid(2) would be EINVAL.
func (b *bundle) checkMapped(uid uint32, groups []uint32) error {
	if b.own == nil {
		return nil
	}
	if _, mapped := b.own.UIDs.ToHost(uid); !mapped {
		return messages.Errorf(messages.Invalid, "user %d: the pod's user namespace has the users 0 to %d only", uid, b.own.UIDs.Length-1)
	}
	for _, gid := range groups {
		if _, mapped := b.own.GIDs.ToHost(gid); !mapped {
			return messages.Errorf(messages.Invalid, "group %d: the pod's user namespace has the groups 0 to %d only", gid, b.own.GIDs.Length-1)
		}
	}
	return nil
}

// userNamespace changes the default mounts to what the kernel lets the root of
// a user namespace mount.
func (b *bundle) userNamespace() error {
	if b.own == nil {
		return nil
	}
	for i := range b.spec.Mounts {
		switch m := &b.spec.Mounts[i]; {
		case m.Type == "devpts" && b.own.GIDs.Length <= ttyGID:
			m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "gid=") })
		case m.Type == "sysfs" && b.r.Namespaces.Network == "":
			// sysfs is of a network namespace, and the node's is not this
			// user namespace's. Read-only reaches what is mounted below.
			*m = specs.Mount{Destination: m.Destination, Type: "bind", Source: "/sys", Options: []string{"rbind", "rslave", "nosuid", "noexec", "nodev", "ro"}}
			if b.node.rro {
				m.Options = append(m.Options, "rro")
			}
		}
	}
	return nil
}

// specMapping is the OCI form of a mapping of the CRI.
func specMapping(of []*runtime.IDMapping) []specs.LinuxIDMapping {
	var list []specs.LinuxIDMapping
	for _, m := range of {
		list = append(list, specs.LinuxIDMapping{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Size: m.GetLength()})
	}
	return list
}

// firstMissing is the first directory on the way to dir that is not in the
// root file system yet, or empty. It is only asked for user namespaces.
func (b *bundle) firstMissing(dir string) string {
	if b.own == nil {
		return ""
	}
	at := "/"
	for _, part := range strings.Split(strings.Trim(path.Clean(dir), "/"), "/") {
		at = path.Join(at, part)
		f, err := pathrs.OpenInRoot(b.r.Rootfs, at)
		if errors.Is(err, fs.ErrNotExist) {
			return at
		}
		if err == nil {
			_ = f.Close()
		}
	}
	return ""
}

// giveToRoot gives the directories from first down to dir, which we have just
// made, to the root of the user namespace: as ours they would be nobody's. No
// process of the container runs yet that could exchange them.
func (b *bundle) giveToRoot(dir, first string) error {
	if first == "" {
		return nil
	}
	for at := path.Clean(dir); below(at, first); at = path.Dir(at) {
		f, err := pathrs.OpenInRoot(b.r.Rootfs, at)
		if err != nil {
			return err
		}
		err = unix.Fchownat(int(f.Fd()), "", int(b.own.UIDs.Host), int(b.own.GIDs.Host), unix.AT_EMPTY_PATH)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("give %s to the container's root: %w", at, err)
		}
	}
	return nil
}

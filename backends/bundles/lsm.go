package bundles

import (
	"context"
	"fmt"
	"hash/fnv"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// selinux labels the process and what is mounted for it.
func (b *bundle) selinux() error {
	if !b.node.selinux {
		return nil
	}
	hostNetwork := b.r.Namespaces.Network == ""
	options := []string{"disable"}
	if !b.sc.GetPrivileged() && (!hostNetwork || !b.config.HostnetworkDisableSELinux) {
		options = labelOptions(b.r.Pod, b.sc.GetSelinuxOptions(), b.r.PodConfig.GetLinux().GetSecurityContext().GetSelinuxOptions())
	}
	process, mount, err := label.InitLabels(options)
	if err != nil {
		return messages.Errorf(messages.Invalid, "selinux_options: %w", err)
	}
	// The library keeps a list of levels in use; ours are a pod's for good.
	selinux.ReleaseLabel(process)
	b.spec.Process.SelinuxLabel = process
	b.spec.Linux.MountLabel = mount
	return b.relabel(mount)
}

// labelOptions takes the container's options before its pod's. A level that
// nobody chose is made from the pod's id, so that all containers of a pod have
// the same, and share its volumes.
func labelOptions(pod string, own, ofPod *runtime.SELinuxOption) []string {
	if own == nil {
		own = ofPod
	}
	level := own.GetLevel()
	if level == "" {
		level = levelOf(pod)
	}
	var options []string
	for _, o := range []struct{ key, value string }{
		{"user", own.GetUser()}, {"role", own.GetRole()}, {"type", own.GetType()}, {"level", level},
	} {
		if o.value != "" {
			options = append(options, o.key+":"+o.value)
		}
	}
	return options
}

// levelOf picks two different categories of the 1,024 there are.
func levelOf(pod string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(pod))
	sum := h.Sum32()
	low, high := sum%1024, (sum/1024)%1023
	if high >= low {
		high++
	}
	return fmt.Sprintf("s0:c%d,c%d", min(low, high), max(low, high))
}

// relabel gives the sources of mounts that ask for it the container's label.
// It walks whole volumes, so it is given up when the caller's time ends and
// goes on by itself; a retry joins it.
func (b *bundle) relabel(mountLabel string) error {
	for _, m := range b.r.Config.GetMounts() {
		if !m.GetSelinuxRelabel() || mountLabel == "" {
			continue
		}
		path := m.GetHostPath()
		_, err := b.join(b.ctx, "relabel "+mountLabel+" "+path, func() (any, error) {
			return nil, label.Relabel(path, mountLabel, false)
		})
		if err != nil {
			return fmt.Errorf("mount %s: relabelling %s for SELinux: %w", m.GetContainerPath(), path, err)
		}
	}
	return nil
}

// join runs slow work on the node that cannot be interrupted: the caller's
// wait ends with its context, the work goes on, and a second caller for the
// same work waits for the first's instead of adding a thread that hangs.
func (b *Backend) join(ctx context.Context, key string, work func() (any, error)) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case done := <-b.looks.DoChan(key, work):
		return done.Val, done.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

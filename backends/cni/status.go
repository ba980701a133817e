package cni

import (
	"context"
	"fmt"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/troupe-run/troupe/messages"
)

// Status says whether a pod could be attached now: there is a configuration,
// its plugins are installed, and none of them answers the verb STATUS with an
// error (CNI 1.1; plugins of older configurations are not asked).
func (b *Backend) Status(ctx context.Context) error {
	n, err := b.source.network()
	if err != nil {
		return err
	}
	for _, p := range n.list.Plugins {
		if _, err := invoke.FindInPath(p.Network.Type, b.config.PluginDirs); err != nil {
			return messages.Errorf(messages.Unavailable, "network %q of %s: its plugin is not installed: %w", n.list.Name, n.file, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, b.config.StatusTimeout)
	defer cancel()
	if err := b.libcni("", nil).GetStatusNetworkList(ctx, n.list); err != nil {
		return failure(ctx, messages.Unavailable, "network %q of %s is not ready: %w", n.list.Name, n.file, err)
	}
	return nil
}

// allDoors is more than there can be pods.
const allDoors = 1 << 20

// GC tells the plugins which pods there are, so that they can free what they
// hold for others (CNI 1.1; with older configurations there is nothing to
// tell), and frees addresses that a power cut has left without an owner. A plugin
// that hangs in an ADD must not hold up the other pods behind a GC that waits for
// it: GC does not wait.
func (b *Backend) GC(ctx context.Context, valid func() []string) error {
	n, err := b.source.network()
	if messages.KindOf(err) == messages.Unavailable && err != nil {
		return nil // no network, no plugins to tell
	}
	if err != nil {
		return err
	}
	if err := b.dropTornLeases(n.list); err != nil {
		return fmt.Errorf("torn leases of network %q: %w", n.list.Name, err)
	}
	if knows, err := version.GreaterThanOrEqualTo(n.list.CNIVersion, "1.1.0"); err != nil || !knows {
		return nil
	}
	if !b.doors.TryAcquire(allDoors) {
		return messages.Errorf(messages.Busy, "garbage collection of network %q: pods are being attached", n.list.Name)
	}
	defer b.doors.Release(allDoors)
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for _, pod := range valid() {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: pod, IfName: ifName})
	}
	ctx, cancel := context.WithTimeout(ctx, b.config.DelTimeout)
	defer cancel()
	if err := b.libcni("", nil).GCNetworkList(ctx, n.list, args); err != nil {
		return failure(ctx, messages.Internal, "garbage collection of network %q of %s: %w", n.list.Name, n.file, err)
	}
	return nil
}

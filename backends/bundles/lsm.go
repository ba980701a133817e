package bundles

import (
	"context"
	"fmt"

	"github.com/opencontainers/selinux/go-selinux/label"
)

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

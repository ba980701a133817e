package nri

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/troupe-run/troupe/messages"
)

// updateLimit is how long an update that a plugin wants may take.
const updateLimit = time.Minute

// unsolicited does what a plugin asks for by itself, and gives back what could
// not be done.
func (b *Backend) unsolicited(ctx context.Context, updates []*api.ContainerUpdate) (failed []*api.ContainerUpdate, err error) {
	ctx, cancel := context.WithTimeout(ctx, updateLimit)
	defer cancel()
	defer context.AfterFunc(b.wishes, cancel)()
	for _, u := range updates {
		if err := b.update(ctx, "UpdateContainers", u); err != nil && !u.GetIgnoreFailure() {
			failed = append(failed, u)
		}
	}
	return failed, nil
}

// later does what a plugin asked for when it answered about something else. It
// must not hold that up: the two can be about one container, or wait for one
// another.
func (b *Backend) later(request string, updates []*api.ContainerUpdate) {
	if len(updates) == 0 {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(b.wishes, updateLimit)
		defer cancel()
		for _, u := range updates {
			if u != nil { // the library's way to say that nothing was asked for
				_ = b.update(ctx, request, u) // logged: nobody waits
			}
		}
	}()
}

// update goes the way of the kubelet's updates, but plugins do not hear of it.
func (b *Backend) update(ctx context.Context, request string, u *api.ContainerUpdate) error {
	err := b.tryUpdate(ctx, u)
	if err != nil {
		b.log.Warn("an NRI plugin's update of a container was not made", "container", u.GetContainerId(), "request", request, "err", err)
	}
	return err
}

func (b *Backend) tryUpdate(ctx context.Context, u *api.ContainerUpdate) error {
	r, err := toCRI(u.GetLinux().GetResources())
	if err != nil || r == nil {
		return err
	}
	c, err := b.host.View().Container(u.GetContainerId())
	if err != nil {
		return err
	}
	if c.ID != u.GetContainerId() { // a prefix of an id is no id
		return messages.Errorf(messages.NotFound, "container %q does not exist", u.GetContainerId())
	}
	deadline, _ := ctx.Deadline()
	if _, err = b.host.Ask(ctx, messages.UpdateContainer{
		Call: messages.Call{Deadline: deadline}, Pod: c.Pod, Container: c.ID, Resources: r, ByPlugin: true,
	}); err != nil {
		return fmt.Errorf("update resources: %w", err)
	}
	return nil
}

package actors

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a container mounts besides its root: images as volumes, the VOLUMEs of
// its own image, and directories of the node that need a SELinux label first.

// takeVolumes takes the images that the container mounts, so that they stay in
// the store, and puts their ids into the plan.
func (c *container) takeVolumes() error {
	for _, m := range c.plan.Config.GetMounts() {
		ref := m.GetImage().GetImage()
		if ref == "" {
			continue
		}
		img, ok := c.env.Index.takeImage(ref, c.id)
		if !ok {
			return messages.Errorf(messages.ImageVolumeMountFailed, "%s: mount %s: image %q is not on this node: pull it first", c.noun(), m.GetContainerPath(), ref)
		}
		c.plan.Volumes = append(c.plan.Volumes, backends.ImageVolume{ImageID: img.ID, SubPath: m.GetImageSubPath()})
	}
	return nil
}

func (p *containerPlan) volumeImages() []string {
	var ids []string
	for _, v := range p.Volumes {
		if !slices.Contains(ids, v.ImageID) {
			ids = append(ids, v.ImageID)
		}
	}
	return ids
}

// shownMounts are the mounts as status shows them: those of an image say which
// it is (cri-api, ImageSpec.image_ref).
func (p *containerPlan) shownMounts() []*runtime.Mount {
	mounts := p.Config.GetMounts()
	if len(p.Volumes) == 0 {
		return mounts
	}
	shown, next := slices.Clone(mounts), 0
	for i, m := range mounts {
		if m.GetImage().GetImage() == "" || next == len(p.Volumes) {
			continue
		}
		shown[i] = proto.Clone(m).(*runtime.Mount)
		shown[i].Image.ImageRef = p.Volumes[next].ImageID
		next++
	}
	return shown
}

func hasNoVolumes(p *containerPlan) bool { return len(p.Volumes) == 0 && len(p.anonymous()) == 0 }

// anonymous are the VOLUMEs of the container's image, without those that one of
// its mounts covers.
func (p *containerPlan) anonymous() []string {
	var own []string
	for _, volume := range p.Image.Config.Volumes {
		at := path.Join("/", volume)
		covered := slices.Contains(own, at)
		for _, m := range p.Config.GetMounts() {
			to := path.Clean(m.GetContainerPath())
			covered = covered || at == to || strings.HasPrefix(at, to+"/")
		}
		if !covered && at != "/" {
			own = append(own, at)
		}
	}
	slices.Sort(own)
	return own
}

func mountVolumes(ctx context.Context, n *backends.Node, p *containerPlan) (err error) {
	next := 0
	for _, m := range p.Config.GetMounts() {
		if m.GetImage().GetImage() == "" {
			continue
		}
		if err := p.mayUse(ctx, n, m.GetImage(), p.Volumes[next].ImageID); err != nil {
			return fmt.Errorf("mount %s: %w", m.GetContainerPath(), err)
		}
		next++
	}
	p.Mounted, err = n.Volumes.Mount(ctx, backends.VolumesRequest{
		Pod: p.Pod, Container: p.ID, Images: p.Volumes, Anonymous: p.anonymous(), Rootfs: p.Rootfs,
	})
	return err
}

func unmountVolumes(ctx context.Context, n *backends.Node, p *containerPlan) error {
	return n.Volumes.Unmount(ctx, p.Pod, p.ID)
}

func hasNothingToRelabel(p *containerPlan) bool { return len(p.Bundle.Relabel) == 0 }

func relabelVolumes(ctx context.Context, n *backends.Node, p *containerPlan) error {
	before := int64(0)
	for _, r := range p.Bundle.Relabel {
		seen := int64(0)
		if err := n.Volumes.Relabel(ctx, r, func(files int64) { seen = files; p.tell(before + files) }); err != nil {
			return err
		}
		before += seen
	}
	return nil
}

func (p *containerPlan) tell(files int64) {
	if p.progress != nil {
		p.progress(files)
	}
}

// relabelled says how many files of its volumes have been seen to.
type relabelled struct{ files int64 }

func (c *container) onRelabelled(m relabelled) {
	if c.step == "relabel" {
		c.relabelled = m.files
		c.publish()
	}
}

// activity is the step under way, for people.
func (c *container) activity() string {
	if c.step == "relabel" && c.relabelled > 0 {
		return fmt.Sprintf("relabel (%d files so far)", c.relabelled)
	}
	return c.step
}

package cri

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/troupe-run/troupe/messages"
	debugv1 "github.com/troupe-run/troupe/messages/debugv1"
	"google.golang.org/protobuf/types/known/durationpb"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// debugImages serves what the debug socket knows of images.
type debugImages struct {
	debugv1.UnimplementedImagesServer
	node Node
}

// List is all images in the store.
func (d debugImages) List(context.Context, *debugv1.ListImagesRequest) (*debugv1.ListImagesResponse, error) {
	view := d.node.View()
	images, used := view.Images(), map[string]int64{}
	for _, c := range view.Containers() {
		of := append([]string{c.ImageID}, c.VolumeImages...)
		slices.Sort(of)
		for _, id := range slices.Compact(of) {
			used[id]++
		}
	}
	users := map[string]int{} // of a layer
	for _, i := range images {
		for _, l := range i.Layers {
			users[l.ID]++
		}
	}
	response := &debugv1.ListImagesResponse{}
	for _, i := range images {
		response.Images = append(response.Images, &debugv1.Image{
			Id: i.ID, Tags: i.RepoTags, Digests: i.RepoDigests, Size: i.Size, Unique: unique(i, users),
			Layers: int64(len(i.Layers)), Containers: used[i.ID], Pinned: i.Pinned,
		})
	}
	return response, nil
}

// unique is the size of the layers that only this image has; -1: not known.
func unique(i messages.Image, users map[string]int) (size int64) {
	for _, l := range i.Layers {
		if users[l.ID] > 1 {
			continue
		}
		if l.Size < 0 {
			return -1
		}
		size += l.Size
	}
	return size
}

// Pulls are the image pulls under way, and the last few that have ended.
func (d debugImages) Pulls(context.Context, *debugv1.PullsRequest) (*debugv1.PullsResponse, error) {
	view, response := d.node.View(), &debugv1.PullsResponse{}
	for _, p := range view.Pulls() {
		response.Pulls = append(response.Pulls, debugPull(p))
	}
	for _, p := range view.EndedPulls() {
		response.Ended = append(response.Ended, debugPull(p))
	}
	return response, nil
}

func debugPull(p messages.PullProgress) *debugv1.Pull {
	pull := &debugv1.Pull{
		Reference: p.Ref, Source: p.Source, Namespace: p.Namespace, State: p.State, Begun: stamp(p.Begun), Since: stamp(p.Since),
		Waiters: int64(p.Waiters), Error: printable(p.Error),
		Received: p.Received(), Unpacked: p.Unpacked(), Size: p.Size(), Rate: p.Rate(), StalledSince: stamp(p.StalledSince()),
	}
	if left := p.Left(); left > 0 {
		pull.Left = durationpb.New(left)
	}
	for _, l := range p.Layers {
		layer := &debugv1.Layer{
			Digest: l.Digest, State: l.State, Received: l.Received, Unpacked: l.Unpacked, Size: l.Size, Rate: l.Rate,
			Tries: int64(l.Tries), Trouble: printable(l.Trouble),
		}
		if l.Stalled {
			layer.StalledSince = stamp(l.Moved)
		}
		pull.Layers = append(pull.Layers, layer)
	}
	return pull
}

// sources are the places an image can be loaded from: files of the node.
var sources = []string{"docker-archive", "oci-archive", "oci", "dir"}

// Load brings an image from files of the node, once for each of its names: only
// the first has work to do.
func (d debugImages) Load(ctx context.Context, r *debugv1.LoadRequest) (*debugv1.LoadResponse, error) {
	transport, path, _ := strings.Cut(r.GetSource(), ":")
	if !slices.Contains(sources, transport) {
		return nil, invalid("source", "%q: begin it with one of %s, and a colon", r.GetSource(), strings.Join(sources, ", "))
	}
	if !filepath.IsAbs(path) || strings.ContainsFunc(path, unicode.IsControl) {
		return nil, invalid("source", "%q: its path must be absolute and without control characters", r.GetSource())
	}
	names := r.GetNames()
	for _, name := range names {
		if err := validateImage("names", &runtime.ImageSpec{Image: name}); err != nil {
			return nil, err
		}
	}
	if len(names) == 0 {
		names = []string{""}
	}
	response := &debugv1.LoadResponse{}
	for _, name := range names {
		id, err := ask(ctx, d.node, messages.PullImage{Call: callOf(ctx), Ref: name, Source: r.GetSource()})
		if err != nil {
			return nil, fmt.Errorf("load image from %s: %w", r.GetSource(), err)
		}
		if !slices.Contains(response.ImageIds, id) {
			response.ImageIds = append(response.ImageIds, id)
		}
	}
	return response, nil
}

// pullLife is a pull in the timeline.
func pullLife(p messages.PullProgress) *debugv1.Life {
	life := newLife(messages.Activity{Since: p.Since}, p.Timeline)
	life.Name, life.State, life.Error = p.Name(), p.State, printable(p.Error)
	return life
}

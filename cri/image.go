package cri

import (
	"context"
	"fmt"
	"time"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PullImage pulls an image and answers with its id. It has no deadline but its
// caller's: a large image over a slow line takes what it takes.
func (s *Server) PullImage(ctx context.Context, r *runtime.PullImageRequest) (*runtime.PullImageResponse, error) {
	if err := validatePull(r); err != nil {
		return nil, err
	}
	if _, err := s.handler(r.GetImage().GetRuntimeHandler()); err != nil {
		return nil, err
	}
	auth, err := pullAuth(r.GetAuth())
	if err != nil {
		return nil, err
	}
	ref := r.GetImage().GetImage()
	id, err := ask(ctx, s.node, messages.PullImage{
		Call: callOf(ctx), Ref: ref, Auth: auth, Namespace: r.GetSandboxConfig().GetMetadata().GetNamespace(),
	})
	if err != nil {
		return nil, fmt.Errorf("pull image %q: %w", ref, err)
	}
	return &runtime.PullImageResponse{ImageRef: id}, nil
}

// ListImages answers from the published list.
func (s *Server) ListImages(_ context.Context, r *runtime.ListImagesRequest) (*runtime.ListImagesResponse, error) {
	return &runtime.ListImagesResponse{Images: listImages(s.node.View(), r.GetFilter())}, nil
}

// listImages gives all images, or the one that the filter names.
func listImages(view messages.View, filter *runtime.ImageFilter) []*runtime.Image {
	if ref := filter.GetImage().GetImage(); ref != "" {
		image, ok := view.Image(ref)
		if !ok {
			return nil
		}
		return []*runtime.Image{image.CRIImage()}
	}
	var items []*runtime.Image
	for _, image := range view.Images() {
		items = append(items, image.CRIImage())
	}
	return items
}

// ImageStatus answers with no image, not with an error, when there is none.
// Before it says so it has the store read again: another tool (podman, skopeo)
// may have brought the image since.
func (s *Server) ImageStatus(ctx context.Context, r *runtime.ImageStatusRequest) (*runtime.ImageStatusResponse, error) {
	if err := validateImage("image", r.GetImage()); err != nil {
		return nil, err
	}
	ref := r.GetImage().GetImage()
	image, ok := s.node.View().Image(ref)
	if !ok {
		if _, err := ask(ctx, s.node, messages.RefreshImages{Call: callOf(ctx)}); err != nil {
			return nil, fmt.Errorf("status of image %q: read the image store: %w", ref, err)
		}
		if image, ok = s.node.View().Image(ref); !ok {
			return &runtime.ImageStatusResponse{}, nil
		}
	}
	response := &runtime.ImageStatusResponse{Image: image.CRIImage()}
	if r.GetVerbose() {
		var err error
		if response.Info, err = info(map[string]any{"imageSpec": map[string]any{"config": image.Config}}); err != nil {
			return nil, err
		}
	}
	return response, nil
}

// RemoveImage removes an image with all its names. An unknown one is removed.
func (s *Server) RemoveImage(ctx context.Context, r *runtime.RemoveImageRequest) (*runtime.RemoveImageResponse, error) {
	if err := validateImage("image", r.GetImage()); err != nil {
		return nil, err
	}
	ref := r.GetImage().GetImage()
	if image, ok := s.node.View().Image(ref); ok && isIDOf(ref, image) {
		ref = image.ID // of a prefix
	}
	_, err := ask(ctx, s.node, messages.RemoveImage{Call: callOf(ctx), Ref: ref})
	if gone(err) != nil {
		return nil, fmt.Errorf("remove image %q: %w", ref, err)
	}
	return &runtime.RemoveImageResponse{}, nil
}

// ImageFsInfo answers with the file systems that hold the images and what
// containers write: two directories, which may be on one disk or on two.
func (s *Server) ImageFsInfo(ctx context.Context, _ *runtime.ImageFsInfoRequest) (*runtime.ImageFsInfoResponse, error) {
	fs, err := s.imageFilesystem(ctx)
	if err != nil {
		return nil, err
	}
	if fs.At.IsZero() {
		fs.At = time.Now()
	}
	return &runtime.ImageFsInfoResponse{
		ImageFilesystems:     []*runtime.FilesystemUsage{filesystem(fs)},
		ContainerFilesystems: []*runtime.FilesystemUsage{filesystem(s.written(ctx))},
	}, nil
}

// firstMeasure is how long a caller waits for the first measure of a daemon that
// has just started. crictl asks for it before every command, with two seconds
// for the answer: without, each would fail for a moment after a start.
const firstMeasure = 1800 * time.Millisecond

func (s *Server) imageFilesystem(ctx context.Context) (messages.Filesystem, error) {
	for end := time.Now().Add(firstMeasure); ; {
		if fs := s.node.View().Filesystem(); fs.Mountpoint != "" {
			return fs, nil
		}
		if time.Now().After(end) {
			return messages.Filesystem{}, messages.Errorf(messages.Unavailable, "the image file system has not been measured yet; ask again in a moment")
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return messages.Filesystem{}, ctx.Err()
		}
	}
}

// written adds up what containers, running or not, have written. One that has
// not been measured yet is left out; the next call has it.
func (s *Server) written(ctx context.Context) messages.Filesystem {
	patient, cancel := context.WithTimeout(ctx, diskPatience)
	defer cancel()
	all := messages.Filesystem{Mountpoint: s.config.Meter.Root(), At: time.Now()}
	for _, c := range s.node.View().Containers() {
		d := s.disk(patient, c)
		all.UsedBytes += d.Bytes.N
		all.Inodes += d.Inodes.N
	}
	return all
}

func filesystem(fs messages.Filesystem) *runtime.FilesystemUsage {
	return &runtime.FilesystemUsage{
		Timestamp:  nanos(fs.At),
		FsId:       &runtime.FilesystemIdentifier{Mountpoint: fs.Mountpoint},
		UsedBytes:  &runtime.UInt64Value{Value: fs.UsedBytes},
		InodesUsed: &runtime.UInt64Value{Value: fs.Inodes},
	}
}

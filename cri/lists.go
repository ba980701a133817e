package cri

import (
	"context"
	"fmt"

	"github.com/troupe-run/troupe/messages"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxBatchBytes keeps a message of a streamed list well under the 16 MiB that
// the kubelet's client takes (k8s.io/cri-client pkg/utils.go): annotations
// alone may be 256 KiB a pod.
const maxBatchBytes = 4 << 20

// StreamPodSandboxes is ListPodSandbox in pieces.
func (s *Server) StreamPodSandboxes(r *runtime.StreamPodSandboxesRequest, stream grpc.ServerStreamingServer[runtime.StreamPodSandboxesResponse]) error {
	return inBatches(stream.Context(), listPods(s.node.View(), r.GetFilter()), s.config.StreamBatch, func(items []*runtime.PodSandbox) error {
		return stream.Send(&runtime.StreamPodSandboxesResponse{PodSandboxes: items})
	})
}

// StreamContainers is ListContainers in pieces.
func (s *Server) StreamContainers(r *runtime.StreamContainersRequest, stream grpc.ServerStreamingServer[runtime.StreamContainersResponse]) error {
	return inBatches(stream.Context(), listContainers(s.node.View(), r.GetFilter()), s.config.StreamBatch, func(items []*runtime.Container) error {
		return stream.Send(&runtime.StreamContainersResponse{Containers: items})
	})
}

// StreamImages is ListImages in pieces.
func (s *Server) StreamImages(r *runtime.StreamImagesRequest, stream grpc.ServerStreamingServer[runtime.StreamImagesResponse]) error {
	return inBatches(stream.Context(), listImages(s.node.View(), r.GetFilter()), s.config.StreamBatch, func(items []*runtime.Image) error {
		return stream.Send(&runtime.StreamImagesResponse{Images: items})
	})
}

// inBatches sends each item once, at least one a message, and nothing at all
// for an empty list (cri-api, Stream… RPCs: the end is EOF).
func inBatches[T proto.Message](ctx context.Context, items []T, most int, send func([]T) error) error {
	for len(items) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, bytes := 0, 0
		for n < len(items) && n < most {
			size := proto.Size(items[n])
			if n > 0 && bytes+size > maxBatchBytes {
				break
			}
			bytes += size
			n++
		}
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

// GetContainerEvents sends what happens from now on. It ends with an error
// when the client reads too slowly, rather than leave something out: the
// client lists again and subscribes anew.
func (s *Server) GetContainerEvents(_ *runtime.GetEventsRequest, stream grpc.ServerStreamingServer[runtime.ContainerEventResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel() // ends the subscription on every way out
	subscription, err := s.node.Subscribe(ctx)
	if err != nil {
		return err
	}
	// The header tells the client that nothing from here on is missed.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closing.Done():
			return messages.Errorf(messages.Unavailable, "the runtime is shutting down; subscribe again when it is back")
		case event, open := <-subscription.Events():
			if !open {
				return endOfEvents(ctx, subscription.Err())
			}
			if err := stream.Send(s.event(event)); err != nil {
				return err
			}
		}
	}
}

// endOfEvents tells why a subscription ended; it is never a clean end, for a
// client would take that for "nothing happens here".
func endOfEvents(ctx context.Context, why error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if why == nil {
		why = messages.Errorf(messages.Unavailable, "it was closed; list pods and containers, then subscribe again")
	}
	return fmt.Errorf("event stream: %w", why)
}

func (s *Server) event(e messages.Event) *runtime.ContainerEventResponse {
	response := &runtime.ContainerEventResponse{
		ContainerId:        e.ID,
		ContainerEventType: e.Type,
		CreatedAt:          nanos(e.At),
		ContainersStatuses: containerStatuses(s.node.View(), e.Container),
	}
	if e.Pod != nil {
		response.PodSandboxStatus = podStatus(e.Pod)
	}
	return response
}

package cri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/troupe-run/troupe/messages"
	debugv1 "github.com/troupe-run/troupe/messages/debugv1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Debug serves troupe.debug.v1 (what every actor is doing, what each pod went
// through, how far pulls are) with gRPC reflection, on a socket of its own so
// that it answers also when the CRI socket is at its limits.
type Debug struct {
	debugv1.UnimplementedIntrospectionServer
	server *Server
	grpc   *grpc.Server
}

// NewDebug makes the debug service of a server; it is not yet listening.
func NewDebug(s *Server) *Debug {
	d := &Debug{server: s, grpc: grpc.NewServer(
		grpc.MaxSendMsgSize(s.config.MaxSend),
		grpc.UnaryInterceptor(func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			ctx, _ = withTrace(ctx)
			response, err := s.contained(ctx, info.FullMethod, func(ctx context.Context) (any, error) { return handler(ctx, request) })
			return response, grpcError(info.FullMethod, err)
		}),
	)}
	debugv1.RegisterIntrospectionServer(d.grpc, d)
	debugv1.RegisterImagesServer(d.grpc, debugImages{node: s.node})
	reflection.Register(d.grpc)
	return d
}

// Serve accepts connections until GracefulStop, and closes the listener.
func (d *Debug) Serve(l net.Listener) error {
	err := d.grpc.Serve(l)
	if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("debug service: serving on %s: %w", l.Addr(), err)
	}
	return nil
}

// GracefulStop waits for calls under way, until ctx ends.
func (d *Debug) GracefulStop(ctx context.Context) error { return stopGracefully(ctx, d.grpc) }

// Tree is every actor there is.
func (d *Debug) Tree(context.Context, *debugv1.TreeRequest) (*debugv1.TreeResponse, error) {
	response := &debugv1.TreeResponse{}
	for _, a := range d.server.node.View().Tree() {
		response.Actors = append(response.Actors, &debugv1.Actor{
			Path: a.Path, Kind: a.Kind, State: a.State, Since: stamp(a.Since), Step: a.Step,
			Mailbox: int64(a.Mailbox), Restarts: int64(a.Restarts), Owns: a.Owns,
		})
	}
	return response, nil
}

// Timeline is the past of a pod, or of all, each followed by its containers;
// also of those that are only being made; of all, the image pulls come last.
func (d *Debug) Timeline(_ context.Context, r *debugv1.TimelineRequest) (*debugv1.TimelineResponse, error) {
	view := d.server.node.View()
	pods, containers := view.Everything()
	if id := r.GetPodSandboxId(); id != "" {
		pod, err := view.Pod(id)
		if err != nil {
			return nil, err
		}
		pods = []*messages.PodSnapshot{pod}
	}
	response := &debugv1.TimelineResponse{}
	for _, pod := range pods {
		response.Lives = append(response.Lives, podLife(pod))
		for _, c := range containers[pod.ID] {
			response.Lives = append(response.Lives, containerLife(c))
		}
	}
	if r.GetPodSandboxId() == "" {
		for _, p := range append(view.EndedPulls(), view.Pulls()...) {
			response.Lives = append(response.Lives, pullLife(p))
		}
	}
	return response, nil
}

func podLife(pod *messages.PodSnapshot) *debugv1.Life {
	m := pod.Config.GetMetadata()
	life := newLife(pod.Activity, pod.Timeline)
	life.PodSandboxId, life.Name, life.State = pod.ID, m.GetNamespace()+"/"+m.GetName(), string(pod.State)
	if life.Error == "" {
		life.Error = printable(pod.Reason)
	}
	return life
}

func containerLife(c *messages.ContainerSnapshot) *debugv1.Life {
	life := newLife(c.Activity, c.Timeline)
	life.PodSandboxId, life.ContainerId, life.Name, life.State = c.Pod, c.ID, c.Config.GetMetadata().GetName(), string(c.State)
	return life
}

func newLife(now messages.Activity, past []messages.Edge) *debugv1.Life {
	life := &debugv1.Life{Step: now.Step, Since: stamp(now.Since), Error: printable(now.Error)}
	for _, e := range past {
		life.Edges = append(life.Edges, &debugv1.Edge{
			At: stamp(e.At), From: e.From, To: e.To, Step: e.Step, Took: durationpb.New(e.Took), Error: printable(e.Err),
		})
	}
	return life
}

// stamp is nil for the zero time.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

package cri

import (
	"context"
	"log/slog"
	"path"
	"runtime/debug"
	"time"

	"github.com/troupe-run/troupe/messages"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	var response any
	err := s.around(ctx, info.FullMethod, request, func(ctx context.Context) (any, error) {
		var err error
		response, err = handler(ctx, request)
		return response, err
	})
	if err != nil {
		return nil, err
	}
	return response, nil
}

func (s *Server) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return s.around(stream.Context(), info.FullMethod, nil, func(ctx context.Context) (any, error) {
		return nil, handler(server, streamWith{stream, ctx})
	})
}

// streamWith is a stream whose context has our deadline and trace.
type streamWith struct {
	grpc.ServerStream
	ctx context.Context
}

func (s streamWith) Context() context.Context { return s.ctx }

// around is what happens around every RPC. Its error is the one that is sent.
func (s *Server) around(ctx context.Context, full string, request any, do func(context.Context) (any, error)) error {
	began := time.Now()
	ctx, trace := withTrace(ctx)
	response, err := s.admitted(ctx, full, request, do)
	sent := grpcError(full, err)
	s.report(ctx, full, trace, time.Since(began), subject(request, response), err, status.Code(sent))
	return sent
}

// answerEarly is how long before its deadline a caller is answered at most. A
// client ends its call by its own clock, and would never read which step its
// pod waits in, or how far its pull was.
const answerEarly = time.Second

// admitted lets an RPC in if it is served and its lane has room, and runs it
// with a deadline.
func (s *Server) admitted(ctx context.Context, full string, request any, do func(context.Context) (any, error)) (any, error) {
	m, err := admit(full)
	if err != nil {
		return nil, err
	}
	leave, err := s.lanes.enter(m.lane)
	if err != nil {
		return nil, err
	}
	defer leave()
	if until, has := ctx.Deadline(); has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until.Add(-min(answerEarly, time.Until(until)/10)))
		defer cancel()
	} else {
		within := m.within(s.config.Deadline, request)
		if within == noDefault {
			return nil, messages.Errorf(messages.Invalid, "%s: the call has no deadline: set one", path.Base(full))
		}
		if within > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, within)
			defer cancel()
		}
	}
	return s.contained(ctx, full, do)
}

// contained turns a panic into an error: one bad request must not end the
// daemon, and with it everybody else's RPCs.
func (s *Server) contained(ctx context.Context, full string, do func(context.Context) (any, error)) (response any, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.ErrorContext(ctx, "panic while serving an RPC; please report it",
				"method", path.Base(full), "panic", p, "trace", callOf(ctx).Trace, "stack", string(debug.Stack()))
			response, err = nil, messages.Errorf(messages.Internal, "%s: the runtime met a bug (panic); its log has the details under trace %s", path.Base(full), callOf(ctx).Trace)
		}
	}()
	return do(ctx)
}

// report writes the one log line of an RPC. What kubelets ask every second
// stays at debug; what failed is a warning, or an error if it is our fault.
func (s *Server) report(ctx context.Context, full, trace string, took time.Duration, about []any, err error, code codes.Code) {
	level := slog.LevelInfo
	m, served := methods[full]
	switch {
	case code == codes.Internal || code == codes.Unknown:
		level = slog.LevelError
	case err != nil:
		level = slog.LevelWarn
	case served && (m.lane == reads || m.lane == execs || m.lane == images):
		level = slog.LevelDebug
	}
	if !s.log.Enabled(ctx, level) {
		return
	}
	attrs := append([]any{"method", path.Base(full), "code", code.String(), "took", took, "trace", trace}, about...)
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	s.log.Log(ctx, level, "rpc", attrs...)
}

// subject names what an RPC is about, for the log. Nothing of a request but
// ids and names is ever logged: it may hold credentials.
func subject(request, response any) (attrs []any) {
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, key, value)
		}
	}
	for _, message := range []any{request, response} {
		if m, ok := message.(interface{ GetPodSandboxId() string }); ok {
			add("pod", m.GetPodSandboxId())
		}
		if m, ok := message.(interface{ GetContainerId() string }); ok {
			add("container", m.GetContainerId())
		}
	}
	switch r := request.(type) {
	case *runtime.RunPodSandboxRequest:
		add("namespace", r.GetConfig().GetMetadata().GetNamespace())
		add("name", r.GetConfig().GetMetadata().GetName())
	case *runtime.CreateContainerRequest:
		add("name", r.GetConfig().GetMetadata().GetName())
	case interface{ GetImage() *runtime.ImageSpec }:
		add("image", r.GetImage().GetImage())
	}
	return attrs
}

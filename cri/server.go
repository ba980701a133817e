// Package cri is the gateway: it serves Kubernetes' Container Runtime
// Interface (cri-api v0.37) on a socket, refuses what is wrong before anything
// is done, turns each RPC into one message for the node, and answers reads
// from what the node has published. It knows no actor and no backend, only the
// interface Node below.
//
// The way of an RPC: intercept.go (trace, limit, deadline, log, panics) →
// its method in pods.go, containers.go, image.go, node.go or lists.go
// (validate → resolve ids → message → ask → response) → status.go (error kind
// → gRPC code). methods.go says how each RPC is treated.
package cri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/troupe-run/troupe/messages"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Node is all the gateway needs of the node behind it.
type Node interface {
	// Ask sends a request to the node and waits for its answer or for the end
	// of ctx. The value is the R of the request's messages.Request[R]; the
	// generic ask in ask.go checks that.
	Ask(ctx context.Context, request any) (any, error)
	// View is read access to what the node has published. It never waits.
	View() messages.View
	// Subscribe gives what happens from now on until ctx ends.
	Subscribe(ctx context.Context) (Subscription, error)
}

// Subscription is a bounded stream of events.
type Subscription interface {
	// Events is closed early when its reader was too slow to keep up, or when
	// the node stops.
	Events() <-chan messages.Event
	// Err says why Events was closed.
	Err() error
}

// Config says what a Server serves, and in which limits. Zero values of limits
// and deadlines are the defaults.
type Config struct {
	Node           Node
	Meter          Meter
	Metrics        []string // groups of metrics to give (metrics.go); nil: all
	Version        string   // of the daemon, as Version answers
	RuntimeName    string   // "" is troupe
	Handlers       []Handler
	Unusable       map[string]string // handlers that are configured and cannot be used, and why
	DefaultHandler string            // taken when RunPodSandbox names none; one of Handlers
	Checkpoints    string            // one of the Checkpoints… words; "" is CheckpointsNone
	CgroupDriver   runtime.CgroupDriver
	Features       *runtime.RuntimeFeatures // nil: none
	// Shown is what Status shows as "config" when asked to be verbose: any
	// value that encodes to JSON. It must hold no secret.
	Shown any

	MaxReceive, MaxSend int // bytes of one message; 80 MiB
	Limits              Limits
	Deadline            time.Duration // of an RPC that brings none; 2 min (see methods.go)
	StreamBatch         int           // items in one message of a streamed list; 500
	Streaming           Streaming     // exec, attach, port-forward
	Log                 *slog.Logger
}

const defaultMessage = 80 << 20

func (c Config) withDefaults() (Config, error) {
	if c.Node == nil {
		return c, errors.New("cri gateway: Config.Node is not set")
	}
	if c.Meter == nil {
		return c, errors.New("cri gateway: Config.Meter is not set")
	}
	if c.Metrics == nil {
		c.Metrics = []string{AllMetrics}
	}
	if c.RuntimeName == "" {
		c.RuntimeName = "troupe"
	}
	if c.Checkpoints == "" {
		c.Checkpoints = CheckpointsNone
	}
	if c.MaxReceive <= 0 {
		c.MaxReceive = defaultMessage
	}
	if c.MaxSend <= 0 {
		c.MaxSend = defaultMessage
	}
	if c.Deadline <= 0 {
		c.Deadline = 2 * time.Minute
	}
	if c.StreamBatch <= 0 {
		c.StreamBatch = 500
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Features == nil {
		c.Features = &runtime.RuntimeFeatures{}
	}
	c.Limits = c.Limits.withDefaults()
	for _, h := range c.Handlers {
		if h.Name == c.DefaultHandler && h.Name != "" {
			return c, nil
		}
	}
	return c, fmt.Errorf("cri gateway: default runtime handler %q is not one of the configured handlers", c.DefaultHandler)
}

// Server serves CRI.
type Server struct {
	runtime.UnimplementedRuntimeServiceServer
	runtime.UnimplementedImageServiceServer

	config   Config
	log      *slog.Logger
	node     Node
	metrics  []metric // the table of this node
	lanes    lanes
	streams  *streams
	grpc     *grpc.Server
	closing  context.Context // ends when the server is to stop: streams without an end of their own end
	closeNow context.CancelFunc
}

// New makes a server that is not yet listening.
func New(config Config) (*Server, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	table, err := metricsTable(config.Metrics, config.Meter.Unified())
	if err != nil {
		return nil, err
	}
	s := &Server{config: config, log: config.Log, node: config.Node, metrics: table, lanes: newLanes(config.Limits)}
	s.streams = newStreams(config.Streaming, config.Node, config.Log)
	s.closing, s.closeNow = context.WithCancel(context.Background())
	s.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(config.MaxReceive),
		grpc.MaxSendMsgSize(config.MaxSend),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	)
	runtime.RegisterRuntimeServiceServer(s.grpc, s)
	runtime.RegisterImageServiceServer(s.grpc, s)
	return s, nil
}

// Serve accepts connections until GracefulStop; it may be called for several
// listeners and closes each. The node must have published what it recovered
// before: an unknown id is a success for Stop and Remove.
func (s *Server) Serve(l net.Listener) error {
	err := s.grpc.Serve(l)
	if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("cri gateway: serving on %s: %w", l.Addr(), err)
	}
	return nil
}

// GracefulStop takes no new RPC, cuts off sessions, ends event streams, and waits for the RPCs
// under way; when ctx ends first, they are cut off.
func (s *Server) GracefulStop(ctx context.Context) error {
	s.closeNow()
	s.streams.stop()
	return stopGracefully(ctx, s.grpc)
}

func stopGracefully(ctx context.Context, server *grpc.Server) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.GracefulStop()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		server.Stop()
		<-done
		return fmt.Errorf("cri gateway: RPCs still under way were cut off: %w", ctx.Err())
	}
}

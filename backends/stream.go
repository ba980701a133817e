package backends

import (
	"context"
	"io"

	"github.com/troupe-run/troupe/messages"
)

// Streamer is the part of a Runtime that joins a client's streams to processes.
//
// Both calls end soon after ctx ends or the client has gone (Streams.Gone).
// They do not close the streams; a Read of Stdin may go on after they have
// returned, until it returns.
type Streamer interface {
	// ExecStream runs a command in a running container and gives its exit code
	// when it has ended and what it had written by then is delivered. When ctx
	// ends, or the client or the daemon has gone, the command is killed with
	// what came of it. The end of Stdin is passed on.
	ExecStream(ctx context.Context, r ExecStreamRequest) (exitCode int32, err error)
	// Attach joins the streams to those of the container's init process, from
	// now on, and returns when that has ended, without an error. The container
	// is never touched, but for its stdin: with StdinOnce that ends with the
	// first attach that had one.
	//
	// A container that has neither stdin nor a terminal is never slowed down by
	// who watches it: one that falls far behind is thrown out (Busy). Others are
	// made to be attached to and wait for their client, as at a terminal, but
	// not for one that takes nothing for ten seconds.
	Attach(ctx context.Context, r AttachRequest) error
}

// ExecStreamRequest is a command with a client's streams.
type ExecStreamRequest struct {
	Pod, Container string
	Command        []string
	TTY            bool // then stdout and stderr are one, and Stderr gets nothing
	messages.Streams
}

// AttachRequest names a running container.
type AttachRequest struct {
	Pod, Container string
	messages.Streams
}

// Forwarder joins a stream to a port in a network namespace.
type Forwarder interface {
	// Forward connects to the port on 127.0.0.1, else on [::1], and copies both
	// ways until both are done, or ctx or the client has ended. The end of one
	// direction is passed on and leaves the other open. Nobody listening is an
	// error of kind Unavailable.
	Forward(ctx context.Context, r ForwardRequest) error
}

// ForwardRequest names a port of a pod.
type ForwardRequest struct {
	Pod    string
	NetNS  string // path; empty: the node's own
	Port   int32
	Stream io.ReadWriteCloser
	Gone   <-chan struct{} // closed when the client has gone; nil: never
}

package messages

import "io"

// TerminalSize is how large a client's terminal is, in characters.
type TerminalSize struct{ Width, Height uint16 }

// Streams are a client's ends of a session. They pass through the actors
// untouched: only a backend reads, writes and waits.
//
// A session that ends leaves off reading Stdin as soon as a Read returns; it is
// for who made the streams to see to that.
type Streams struct {
	Stdin          io.Reader           // nil: none
	Stdout, Stderr io.Writer           // nil: not wanted
	Resize         <-chan TerminalSize // nil: never; closed: no more
	Gone           <-chan struct{}     // closed when the client has gone; nil: never
}

// ExecStream runs a command in a running container with a client's streams. It
// is answered with the command's exit code when that has ended. A client that
// goes away ends the command.
type ExecStream struct {
	Call
	Pod, Container string
	Command        []string
	TTY            bool
	Streams        Streams
}

// Answers says the reply is the exit code, 128+n when killed by signal n.
func (ExecStream) Answers(int32) {}

// Attach joins a client's streams to a running container's own. It is answered
// when the container or the client has ended; it never ends the container.
type Attach struct {
	Call
	Pod, Container string
	Streams        Streams
}

// Answers says the reply is empty.
func (Attach) Answers(None) {}

// PortForward joins a stream to a port of a ready pod's loopback. It is
// answered when either side has ended, or the pod stops.
type PortForward struct {
	Call
	Pod    string
	Port   int32
	Stream io.ReadWriteCloser
	Gone   <-chan struct{} // closed when the client has gone; nil: never
}

// Answers says the reply is empty.
func (PortForward) Answers(None) {}

// About implements Addressed.
func (m ExecStream) About() (pod, container string) { return m.Pod, m.Container }

// About implements Addressed.
func (m Attach) About() (pod, container string) { return m.Pod, m.Container }

// About implements Addressed.
func (m PortForward) About() (pod, container string) { return m.Pod, "" }

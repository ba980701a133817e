package wire

// A session is a connection of its own: OpHello, then one of these requests,
// whose frame carries the client's descriptors in the order stdin, stdout,
// stderr (those that are asked for). EventStarted follows, which may carry a
// descriptor, and at the end of the session the answer. When the connection
// ends first, the session does.
const (
	OpExecStream = "execStream" // ExecStream → ExecEnd
	OpAttach     = "attach"     // Attach → nothing
	OpStdinDone  = "stdinDone"  // nothing; not answered: the client's stdin has ended
)

// EventStarted is pushed with Started when a session's process runs, or is
// attached to.
const EventStarted = "started"

// Busy is the kind of the error when an attacher is too slow.
const Busy = "busy"

// ExecStream asks for a command whose stdio are the client's descriptors, or a
// terminal whose master comes with EventStarted.
type ExecStream struct {
	Ref
	Command       []string `json:"command"`
	TTY           bool     `json:"tty,omitempty"`
	Stdin         bool     `json:"stdin,omitempty"`
	Stdout        bool     `json:"stdout,omitempty"`
	Stderr        bool     `json:"stderr,omitempty"`
	Width, Height uint16   `json:",omitempty"` // of the terminal; 0: not known yet
}

// ExecEnd is how the command ended.
type ExecEnd struct {
	ExitCode int32 `json:"exitCode"`
}

// Attach asks for a copy of what the container prints, and for the writing end
// of its stdin (with EventStarted), if it has one.
type Attach struct {
	Ref
	Stdin  bool `json:"stdin,omitempty"`
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
}

// Started says what the descriptor that comes with it is: the master of a
// terminal, the writing end of stdin, or, when both are false, not there.
type Started struct {
	TTY   bool `json:"tty,omitempty"`
	Stdin bool `json:"stdin,omitempty"`
}

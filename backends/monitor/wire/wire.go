package wire

import "time"

// Version changes when an older side could misunderstand a newer one.
const Version = 2

// The requests, and what is asked and answered.
const (
	OpHello  = "hello"  // Hello → Hello
	OpWatch  = "watch"  // nothing → []State; events follow
	OpCreate = "create" // Create → State
	OpStart  = "start"  // Ref → State
	OpSignal = "signal" // Signal → nothing
	OpState  = "state"  // Ref → State
	OpDelete = "delete" // Ref → nothing
	OpExec   = "exec"   // Exec → ExecResult
	OpReopen = "reopen" // Ref → nothing
	OpUpdate = "update" // Update → nothing
	OpFreeze = "freeze" // Freeze → nothing
	OpThaw   = "thaw"   // Freeze → nothing
	OpDump   = "dump"   // Dump → nothing
	// A request of its own, so that an older monitor does not take it for a
	// create and run the command from its beginning.
	OpCreateRestored = "createRestored" // Create with Images → State
	OpList           = "list"           // nothing → []State
	OpQuit           = "quit"           // nothing → nothing; refused while there are containers
	OpUpgrade        = "upgrade"        // nothing → nothing; then the monitor ends and the program now at its path takes over
	OpCancel         = "cancel"         // Cancel; not answered
)

// Answered are the requests that have an answer.
var Answered = []string{
	OpHello, OpWatch, OpCreate, OpCreateRestored, OpStart, OpSignal, OpState, OpDelete, OpExec, OpReopen, OpUpdate,
	OpFreeze, OpThaw, OpDump, OpList, OpQuit, OpUpgrade, OpExecStream, OpAttach,
}

// ExitServed is the exit code of a monitor that finds another one serving the
// directory, or about to.
const ExitServed = 3

// EventExit is pushed with a State when an init process has ended.
const EventExit = "exit"

// The kinds of errors; the client turns them into messages.Kind.
const (
	Internal     = ""
	NotFound     = "notFound"
	Invalid      = "invalid"
	Exists       = "exists"
	Precondition = "precondition"
	Deadline     = "deadline"
	Canceled     = "canceled"
	NoSpace      = "noSpace"
)

// Error is why a request failed.
type Error struct {
	Kind string `json:"kind,omitempty"`
	Text string `json:"text"`
}

func (e *Error) Error() string { return e.Text }

// Hello says who speaks. Pid is the monitor's.
type Hello struct {
	Version int `json:"version"`
	Pid     int `json:"pid,omitempty"`
}

// Ref names a container; Container is empty for a pod's pause process.
type Ref struct {
	Pod       string `json:"pod"`
	Container string `json:"container,omitempty"`
}

// Key is the one name the pair goes by in files and libcontainer.
func (r Ref) Key() string {
	if r.Container != "" {
		return r.Container
	}
	return r.Pod
}

// Create asks for an init process up to the point where Start lets it run.
type Create struct {
	Ref
	Bundle    string `json:"bundle"`
	LogPath   string `json:"logPath,omitempty"`
	Stdin     bool   `json:"stdin,omitempty"`
	StdinOnce bool   `json:"stdinOnce,omitempty"`
	TTY       bool   `json:"tty,omitempty"`
	Pause     bool   `json:"pause,omitempty"`

	// Runtime is the OCI runtime to make the container with; nil: libcontainer.
	Runtime *Runtime `json:"runtime,omitempty"`

	// Images is where CRIU's images are (in checkpoint): the container has no
	// process until Start restores them. Only with OpCreateRestored.
	Images string `json:"images,omitempty"`
}

// Runtime says how an OCI runtime is run. It is all the monitor knows about a
// handler and is kept with each container, so that one can be ended after its
// handler has gone from the configuration.
type Runtime struct {
	Name string `json:"name"`           // the handler's
	Kind string `json:"kind,omitempty"` // how the program calls itself: crun, runc, …
	Path string `json:"path"`
	Root string `json:"root,omitempty"` // its --root; empty: below the monitor's directory
	// CreateTimeout bounds a create; 0: the caller's patience does.
	CreateTimeout time.Duration `json:"createTimeout,omitempty"`
}

// Signal asks for a signal to the init process, or to every process.
type Signal struct {
	Ref
	Signal string `json:"signal"`
	All    bool   `json:"all,omitempty"`
}

// Exec asks for a command in a running container.
type Exec struct {
	Ref
	Command []string      `json:"command"`
	Timeout time.Duration `json:"timeout,omitempty"` // 0: none
}

// ExecResult is what the command printed (at most 16 MiB of each) and how it ended.
type ExecResult struct {
	Stdout   []byte `json:"stdout,omitempty"`
	Stderr   []byte `json:"stderr,omitempty"`
	ExitCode int32  `json:"exitCode"`
}

// Cancel names the request that is no longer waited for.
type Cancel struct {
	ID uint64 `json:"id"`
}

// The statuses; the same words as messages.ProcessStatus.
const (
	Created = "created"
	Running = "running"
	Exited  = "exited"
	Gone    = "gone"
)

// State is the truth about an init process; the fields are those of
// messages.ProcessState.
type State struct {
	Ref
	Status      string    `json:"status"`
	Pid         int       `json:"pid,omitempty"`
	StartedAt   time.Time `json:"startedAt,omitzero"`
	ExitedAt    time.Time `json:"exitedAt,omitzero"`
	ExitCode    int32     `json:"exitCode"`
	Signal      int       `json:"signal,omitempty"`
	OOMKilled   bool      `json:"oomKilled,omitempty"`
	ExitUnknown bool      `json:"exitUnknown,omitempty"`
}

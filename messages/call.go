package messages

import "time"

// Call is embedded in every request: who asks, and until when an answer is of use.
type Call struct {
	Deadline time.Time // zero: none
	Trace    string    // joins log lines of one RPC
}

// Until is the deadline of the call.
func (c Call) Until() time.Time { return c.Deadline }

// Request is a message that is answered with exactly one Reply whose value is
// an R. The type parameter lets Ask be checked by the compiler.
type Request[R any] interface{ Answers(R) }

// Reply answers a request: a value or an error, never both.
type Reply struct {
	Value any
	Err   error
}

// None is the value of a reply that says only "done".
type None struct{}

// Abandon tells the node that the caller behind a reply process no longer
// waits (its RPC was cancelled). Work that somebody else waits for goes on.
type Abandon struct{ Caller string }

// About says which pod and container a request is about, for the words of an
// answer that comes too late.
func (m StopPod) About() (pod, container string)         { return m.Pod, "" }
func (m RemovePod) About() (pod, container string)       { return m.Pod, "" }
func (m CreateContainer) About() (pod, container string) { return m.Pod, "" }
func (m StartContainer) About() (pod, container string)  { return m.Pod, m.Container }
func (m StopContainer) About() (pod, container string)   { return m.Pod, m.Container }
func (m RemoveContainer) About() (pod, container string) { return m.Pod, m.Container }
func (m ReopenLog) About() (pod, container string)       { return m.Pod, m.Container }
func (m ExecSync) About() (pod, container string)        { return m.Pod, m.Container }

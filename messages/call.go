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

// Addressed is a request about a pod, or about a container of it (then both are
// named). It is routed by that, and an answer that comes too late says it.
type Addressed interface {
	About() (pod, container string)
}

// About implements Addressed.
func (m StopPod) About() (pod, container string) { return m.Pod, "" }

// About implements Addressed.
func (m RemovePod) About() (pod, container string) { return m.Pod, "" }

// About implements Addressed.
func (m CreateContainer) About() (pod, container string) { return m.Pod, "" }

// About implements Addressed.
func (m StartContainer) About() (pod, container string) { return m.Pod, m.Container }

// About implements Addressed.
func (m StopContainer) About() (pod, container string) { return m.Pod, m.Container }

// About implements Addressed.
func (m RemoveContainer) About() (pod, container string) { return m.Pod, m.Container }

// About implements Addressed.
func (m ReopenLog) About() (pod, container string) { return m.Pod, m.Container }

// About implements Addressed.
func (m ExecSync) About() (pod, container string) { return m.Pod, m.Container }

// Taking is a request that takes something away: where there is nothing, it is
// done (cri-api: Stop and Remove are idempotent).
type Taking interface {
	Addressed
	Takes()
}

// Takes implements Taking.
func (StopPod) Takes() {}

// Takes implements Taking.
func (RemovePod) Takes() {}

// Takes implements Taking.
func (StopContainer) Takes() {}

// Takes implements Taking.
func (RemoveContainer) Takes() {}

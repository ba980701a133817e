package main

import "time"

// What the host tells a machine after its boot, and what that tells the host,
// as lines of JSON over a serial port.

// Plan is what a machine shall do.
type Plan struct {
	Image, Other string            // references; Other is pulled and removed while pods come and go
	Attempts     map[string]uint32 // by a pod's name: the next that nobody has had
	Fill         int               // how many pods are run while the old ones are still listed
	Seed         uint64
	End          End
	Answers      int           // the end comes when so many calls of the work have been answered,
	After        time.Duration // and so long after that
	Work         bool          // false: look, tidy up, and that is all
}

// End is how a boot ends.
type End string

const (
	PowerCut End = "power cut" // the disk keeps what was flushed, and of the rest what it likes
	Reset    End = "reset"     // the kernel restarts without a sync; the disk has power all the time
	Reboot   End = "reboot"    // systemctl reboot
)

// Event is one line from a machine.
type Event struct {
	// "do" and "did" are before and after a call; "exited" is a status that was
	// seen; "found" is a look at the node; "full", "tidy" are results; "cut",
	// "done" and "failed" end the boot.
	Kind string

	Op        string `json:",omitempty"` // of do and did: run, stop, remove, pull, unpull; create, start, stop, remove of a container
	Pod       string `json:",omitempty"`
	Attempt   uint32 `json:",omitempty"`
	Container string `json:",omitempty"`
	ID        string `json:",omitempty"`
	Created   int64  `json:",omitempty"`
	Code      int32  `json:",omitempty"` // of exited; of create: what it will end with, 0: it runs
	Text      string `json:",omitempty"`

	First bool     `json:",omitempty"` // of found: the very first answer
	Found *Found   `json:",omitempty"`
	List  []string `json:",omitempty"`
	After time.Duration
}

// Found is what the daemon shows, and the machine around it.
type Found struct {
	Pods       []Pod
	Containers []Container
	Images     []string // by name
	Units      []string // what systemd says of ours, when it is not as it should be
	Aside      []string // records that were put aside
	Check      string   // what `troupe check` found
	Booted     float64  // seconds from the boot to the daemon's first answer
}

// Pod is one as listed.
type Pod struct {
	ID, Name string
	Attempt  uint32
	Ready    bool
	Created  int64
}

// Container is one by its status.
type Container struct {
	ID, PodID, Name            string
	State, Reason, Message     string
	Code                       int32
	Created, Started, Finished int64
}

package simulations

import (
	"encoding/json"
	"reflect"
	"time"
)

// Faults says what may go wrong in a run, as chances or as mean times between
// events. The zero value is a calm node. Recovery may be demanded from any
// combination of these: what is full, silent or read-only is so for a while, and
// what no record owns is the sweeper's. DESIGN.md has the table of what each
// stands for and what is promised.
type Faults struct {
	// Chances for each call to a backend.
	Before float64 `json:",omitzero"` // it fails without effect
	After  float64 `json:",omitzero"` // it fails although its effect is there: the interesting one
	Half   float64 `json:",omitzero"` // it fails with half of its effect (an address without a pod)
	Hang   float64 `json:",omitzero"` // it does not return until its context ends
	Stuck  float64 `json:",omitzero"` // it does not return, whatever its context says, for minutes
	Slow   float64 `json:",omitzero"` // it takes seconds
	Only   string  `json:",omitzero"` // these faults only in this backend ("Network"); empty: in all

	// KillDaemon is how often in a run, about, the daemon is killed in a call to a
	// backend, before its effect or after. It is no chance for each call: a run of
	// many pods would be all restarts.
	KillDaemon float64 `json:",omitzero"`
	// KillMonitor is the chance for each call to the monitor that it is killed, half
	// of it before the effect and half after.
	KillMonitor float64 `json:",omitzero"`

	Panic     float64 `json:",omitzero"` // an actor panics on a message, before or after it has dealt with it
	Impatient float64 `json:",omitzero"` // a client goes away before it has its answer, and asks again

	// Mean times between deaths; 0: none.
	DaemonCrash  time.Duration `json:",omitzero"`
	MonitorCrash time.Duration `json:",omitzero"`
	KeeperCrash  time.Duration `json:",omitzero"` // of the monitor with its keeper
	BothCrash    time.Duration `json:",omitzero"` // of daemon and monitor at once
	PowerCut     time.Duration `json:",omitzero"` // of the node; what was not on the disk is torn or lost
	ProcessDeath time.Duration `json:",omitzero"` // of a container's process, by itself
	MassDeath    time.Duration `json:",omitzero"` // of all processes at once
	Undying      time.Duration `json:",omitzero"` // a process does not die of SIGKILL for a while
	Pause        time.Duration `json:",omitzero"` // the daemon stands still for a while, all of it

	// Mean times between whiles in which something does not work.
	DiskFull     time.Duration `json:",omitzero"`
	ReadOnly     time.Duration `json:",omitzero"`
	NoFiles      time.Duration `json:",omitzero"` // EMFILE, half of all calls
	NoMemory     time.Duration `json:",omitzero"` // ENOMEM, half of all calls
	NetworkDown  time.Duration `json:",omitzero"` // the CNI configuration is gone or wrong
	RegistryDown time.Duration `json:",omitzero"`
	MonitorHang  time.Duration `json:",omitzero"` // the monitor takes no command
	Zombies      time.Duration `json:",omitzero"` // the monitor gets to no end, and then to all at once

	Rot       time.Duration `json:",omitzero"` // of a layer in the image store; a check with repair follows
	BadRecord time.Duration `json:",omitzero"` // a record is torn, empty, foreign or newer when the daemon is started next
	Litter    time.Duration `json:",omitzero"` // something under our names that nobody owns
	ClockStep time.Duration `json:",omitzero"` // the node's clock is set, up to a day to and fro, and the daemon started anew
}

// String is the plan as JSON, without what does not happen; see ParseFaults.
func (f Faults) String() string {
	data, err := json.Marshal(f)
	if err != nil {
		panic(err) // numbers and a name
	}
	return string(data)
}

// ParseFaults reads what String gave.
func ParseFaults(text string) (f Faults, err error) {
	err = json.Unmarshal([]byte(text), &f)
	return f, err
}

// most are the highest chances and the shortest mean times that Draw gives.
var most = Faults{
	Before: 0.03, After: 0.03, Half: 0.03, Hang: 0.003, Stuck: 0.0005, Slow: 0.02,
	KillDaemon: 4, KillMonitor: 0.005, Panic: 0.01, Impatient: 0.3,
	DaemonCrash: 40 * time.Second, MonitorCrash: 30 * time.Second, KeeperCrash: time.Minute, BothCrash: time.Minute, PowerCut: 90 * time.Second,
	ProcessDeath: 2 * time.Second, MassDeath: time.Minute, Undying: 5 * time.Second, Pause: 30 * time.Second,
	DiskFull: time.Minute, ReadOnly: time.Minute, NoFiles: time.Minute, NoMemory: time.Minute,
	NetworkDown: 40 * time.Second, RegistryDown: 20 * time.Second, MonitorHang: time.Minute, Zombies: time.Minute,
	Rot: 20 * time.Second, BadRecord: 20 * time.Second, Litter: 10 * time.Second, ClockStep: time.Minute,
}

// Draw chooses a plan from a seed ("swarm testing"): with all, and in one run of
// four without, all faults are there, in the others each is or is not, some of
// them in one place only, so that what one of them hides is seen.
func Draw(w interface {
	IntN(int) int
	Float64() float64
}, all bool,
) Faults {
	var f Faults
	all = w.IntN(4) == 0 || all
	to, from := reflect.ValueOf(&f).Elem(), reflect.ValueOf(most)
	for i := range to.NumField() {
		if !all && w.IntN(2) == 0 {
			continue
		}
		switch v := from.Field(i).Interface().(type) {
		case float64:
			to.Field(i).SetFloat(w.Float64() * v)
		case time.Duration:
			to.Field(i).SetInt(int64(v) + int64(w.IntN(int(4*v))))
		}
	}
	if !all && w.IntN(3) == 0 {
		f.Only = backendNames[w.IntN(len(backendNames))]
	}
	return f
}

var backendNames = []string{"Network", "Rootfs", "Runtime", "Journal", "Namespaces", "Bundles", "Images", "Cgroups", "Files", "Volumes"}

package wire

import "time"

// Freeze stops every process of some containers, or lets them go on. Frozen
// ones go on by themselves after Limit, and when the connection ends over which
// they were frozen: a daemon that dies leaves nothing frozen behind.
type Freeze struct {
	Pod        string        `json:"pod"`
	Containers []string      `json:"containers"`
	Limit      time.Duration `json:"limit,omitempty"` // of OpFreeze; required
}

// Dump asks for CRIU's images of a running container in Dir/checkpoint, with
// Dir/dump.log and Dir/stats-dump beside them. The container runs on; one that
// is frozen stays so.
type Dump struct {
	Ref
	Dir string `json:"dir"`
}

package monitor

import (
	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/backends/monitor/wire"
)

// The daemon's crash points around each request: monitor/<op>/before it is sent,
// and after its answer came.
func init() {
	if !failpoint.On {
		return
	}
	for _, op := range wire.Answered {
		failpoint.Declare("monitor", op, "before")
		failpoint.Declare("monitor", op, "after")
	}
}

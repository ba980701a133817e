//go:build linux && cgo

package main

import (
	"fmt"
	"io"

	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/backends/monitor/wire"
)

// The monitor's crash points around each request: handle/<op>/before anything is
// done, and after its effect, before the answer.
func init() {
	if !failpoint.On {
		return
	}
	for _, op := range wire.Answered {
		failpoint.Declare("handle", op, "before")
		failpoint.Declare("handle", op, "after")
	}
	failpoint.Declare("exit", "seen")
	failpoint.Declare("exit", "reaped")
	failpoint.Declare("exit", "recorded")
	failpoint.Declare("create", "recorded")
	failpoint.Declare("create", "made")
	failpoint.Declare("start", "released")
	for _, name := range []string{
		"log/anew/truncated", "log/splice/after", "log/read/after", "log/terminal/spliced", "log/intent/after", "log/write/after",
		"log/done/after", "log/punch/after", "log/remove/before", "log/reopen/before", "log/reopen/after", "log/mend/before",
		"keep/create/after", "keep/drop/before", "keep/load/listed", "keep/load/mended", "keep/load/before", "keep/load/after",
		"keep/serving/before", "keep/serving/after", "keep/lost",
	} {
		failpoint.Declare(name)
	}
}

// printPoints lists the crash points of this build.
func printPoints(to io.Writer) int {
	for _, name := range failpoint.Names() {
		fmt.Fprintln(to, name)
	}
	if failpoint.On {
		return 0
	}
	fmt.Fprintln(to, "this build has no failpoints: build it with -tags failpoints")
	return 1
}

package monitor_test

import (
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
)

func TestTheMonitorKeepsThePromisesOfARuntime(t *testing.T) {
	eachHandler(t, keepsThePromises)
}

func keepsThePromises(t *testing.T) {
	var n *node
	conformance.Runtime(t, conformance.RuntimeHarness{
		New: func(t *testing.T) backends.Runtime {
			n = newNode(t)
			return n.Client
		},
		Process: func(t *testing.T, p conformance.Program) backends.ProcessRequest {
			return n.container(map[conformance.Program][]string{
				conformance.Sleeps: {"/bin/sleep", "1000"}, conformance.Exits3: shell("exit 3"), conformance.Missing: {"nosuch"},
			}[p])
		},
		Echo: shell("echo hello; exit 3"), Hang: []string{"/bin/sleep", "1000"}, Cat: []string{"cat"},
	})
}

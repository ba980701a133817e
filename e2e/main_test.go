// Package e2e tests Troupe as a node would use it: the real binaries, driven by
// the real crictl over the CRI socket, with a real registry and the real CNI
// plugins, on a node of its own (harness.Enter). It needs root and what `make
// setup build tools` brings, and fails without.
package e2e

import (
	"os"
	"testing"

	"github.com/troupe-run/troupe/e2e/harness"
)

func TestMain(m *testing.M) {
	harness.Enter()
	code := m.Run()
	if shared != nil {
		if err := shared.lab.Close(); err != nil {
			println("tidying up:", err.Error())
			code = 1
		}
	}
	os.Exit(code)
}

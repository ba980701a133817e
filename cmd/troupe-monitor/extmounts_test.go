//go:build linux && cgo

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// CVE-2026-119101 (runc), CVE-2026-115520 (crun).
func TestAMountWhosePlaceCRIUWouldMisreadIsNotRestored(t *testing.T) {
	root := t.TempDir()
	for link, to := range map[string]string{"data": "a]:/etc", "top": "/", "good": "a[b]c"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for at, fits := range map[string]bool{
		"/plain": true, "/good": true, "/good/x": true, "/up/../plain": true,
		"/data": false, "/data/x": false, "/x]:/y": false, "/top": false, "/": false, "/a/..": false,
	} {
		for _, spec := range []*specs.Spec{
			{Mounts: []specs.Mount{{Destination: "/proc"}, {Destination: at, Type: "bind"}}},
			{Linux: &specs.Linux{Devices: []specs.LinuxDevice{{Path: at}}}},
		} {
			spec.Root = &specs.Root{Path: root}
			if spec.Linux == nil {
				spec.Linux = &specs.Linux{}
			}
			if err := namedForCRIU(spec); (err == nil) != fits {
				t.Errorf("%s: %v", at, err)
			}
		}
	}
}

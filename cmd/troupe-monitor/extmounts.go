//go:build linux && cgo

package main

import (
	"fmt"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// namedForCRIU says whether CRIU will read the names of the container's mounts
// as they are meant. A runtime tells CRIU of each as "mnt[<where>]:<what>",
// where <where> is the place in the root with links resolved, and CRIU before
// 4.3.1 takes the first "]:" for the end of it. So a link in an image could have
// any directory of the node mounted (CVE-2026-119101 in runc, CVE-2026-115520 in
// crun: that of the distribution may be an old one). An empty place has CRIU
// look for mounts by itself.
func namedForCRIU(spec *specs.Spec) error {
	var at []string
	for _, m := range spec.Mounts {
		at = append(at, m.Destination)
	}
	for _, d := range spec.Linux.Devices {
		at = append(at, d.Path)
	}
	for _, path := range at {
		found, err := securejoin.SecureJoin(spec.Root.Path, path)
		if err != nil {
			return fmt.Errorf("where is %s in the root: %w", path, err)
		}
		if where := strings.TrimPrefix(found, spec.Root.Path); where == "" || strings.Contains(where, "]:") {
			return fmt.Errorf("mount %s leads to %q in the root, which criu would not read as a place: take the link out of the image, or mount elsewhere", path, where)
		}
	}
	return nil
}

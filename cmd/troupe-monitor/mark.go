//go:build linux && cgo

package main

import (
	"errors"

	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// mark writes on the container's cgroups whose they are, so that the daemon
// finds them also when there is no record of the container any more. Without it
// they would be left alone as somebody else's.
func (c *container) mark() {
	var errs []error
	for _, dir := range c.cgroup.GetPaths() {
		if err := unix.Setxattr(dir, wire.CgroupMark, []byte(wire.Mark(c.ref, c.m.dir)), 0); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		c.log.Warn("a cgroup could not be marked as this container's: should its record be lost, nobody would know whose it is", "err", err)
	}
}

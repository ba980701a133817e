//go:build linux && cgo

package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends/thread"
	"golang.org/x/sys/unix"
)

// hostname is the name in the UTS namespace of a pod. CRIU 4.1 joins that
// namespace for a restored process, and then gives it the name of the pod that
// was captured, for all containers of the new one; so it is put back.
type hostname struct {
	path         string // of the namespace; empty: the container has one of its own, or the node's
	name, domain []byte
}

// hostnameOf is the present name where a container is to live.
func hostnameOf(spec *specs.Spec) (hostname, error) {
	var h hostname
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.UTSNamespace {
			h.path = ns.Path
		}
	}
	var uts unix.Utsname
	err := h.inside(func() error { return unix.Uname(&uts) })
	h.name, h.domain = text(uts.Nodename[:]), text(uts.Domainname[:])
	return h, err
}

func text(field []byte) []byte {
	before, _, _ := bytes.Cut(field, []byte{0})
	return before
}

// set puts it back.
func (h hostname) set() error {
	return h.inside(func() error {
		if err := unix.Sethostname(h.name); err != nil {
			return err
		}
		return unix.Setdomainname(h.domain)
	})
}

// inside calls f on a thread that is in the namespace and goes with it.
func (h hostname) inside(f func() error) error {
	if h.path == "" {
		return nil
	}
	ns, err := os.Open(h.path)
	if err != nil {
		return fmt.Errorf("the pod's UTS namespace: %w", err)
	}
	defer ns.Close()
	thread.ThrownAway(func() {
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWUTS); err == nil {
			err = f()
		}
	})
	if err != nil {
		return fmt.Errorf("the name in the pod's UTS namespace: %w", err)
	}
	return nil
}

package cni

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// loopbackUp brings up lo. The CNI loopback plugin does no more, at the price
// of starting a process (2.4 ms against 0.06).
func loopbackUp(path string) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("loopback: open namespace %s: %w", path, err)
	}
	defer func() { _ = ns.Close() }()
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("loopback: netlink in %s: %w", path, err)
	}
	defer handle.Close()
	lo, err := handle.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: find lo in %s: %w", path, err)
	}
	if err := handle.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback: bring up lo in %s: %w", path, err)
	}
	return nil
}

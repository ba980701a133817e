package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// leaseDir is where host-local keeps the addresses of a network it has given
// away; "" when the list does not use it.
func leaseDir(list *libcni.NetworkConfigList) string {
	for _, p := range list.Plugins {
		var conf struct {
			IPAM struct{ Type, DataDir string } `json:"ipam"`
		}
		if json.Unmarshal(p.Bytes, &conf) != nil || conf.IPAM.Type != "host-local" {
			continue
		}
		if conf.IPAM.DataDir == "" {
			conf.IPAM.DataDir = "/var/lib/cni/networks" // host-local's default
		}
		return filepath.Join(conf.IPAM.DataDir, list.Name)
	}
	return ""
}

// dropTornLeases removes addresses that host-local has given to nobody. A lease
// is a file with the address for a name and its owner's id for content, and is not
// synced: what a power cut leaves is the name. A DEL goes by the content, so such
// an address was lost for ever (plugins of CNI 1.1 have a GC for it; Debian's are
// older). The id is written before host-local lets its lock go: an empty lease is
// nobody's while we have the lock, whoever's plugins use the directory.
func (b *Backend) dropTornLeases(list *libcni.NetworkConfigList) error {
	dir := leaseDir(list)
	if dir == "" {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return messages.Errorf(messages.Busy, "a plugin is at work in %s", dir)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if _, err := netip.ParseAddr(e.Name()); err != nil {
			continue
		}
		content, err := backends.ReadFile(path)
		if err != nil || len(bytes.Trim(content, "\x00")) > 0 {
			continue
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		b.config.Log.Warn("an address is free again: a power cut had left its lease without an owner", "network", list.Name, "lease", path)
	}
	return nil
}

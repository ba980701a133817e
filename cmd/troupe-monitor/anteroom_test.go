//go:build linux && cgo

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/troupe-run/troupe/backends/thread"
	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mount namespaces need root")
	}
}

// mounted is a directory with a mount, which goes with the test.
func mounted(t *testing.T, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("test", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func plainConfig(rootfs string, sources ...string) *configs.Config {
	c := &configs.Config{Rootfs: rootfs, Namespaces: configs.Namespaces{{Type: configs.NEWNS}}}
	for _, s := range sources {
		c.Mounts = append(c.Mounts, &configs.Mount{Source: s, Destination: "/x", Device: "bind", Flags: unix.MS_BIND | unix.MS_REC})
	}
	return c
}

func TestAnInitBeginsWithItsOwnMountsHoweverManyTheNodeHas(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	own := filepath.Join(dir, "monitor")
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	rootfs, volume := mounted(t, filepath.Join(dir, "rootfs")), mounted(t, filepath.Join(dir, "volume"))
	inner := mounted(t, filepath.Join(volume, "inner"))
	for name, text := range map[string]string{filepath.Join(inner, "data"): "in the volume", filepath.Join(dir, "hosts"): "a file"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 300 {
		mounted(t, filepath.Join(dir, "others", fmt.Sprint(i)))
	}
	a := newAnterooms(own)
	paths, ok := a.needs(plainConfig(rootfs, volume, filepath.Join(dir, "hosts")))
	if !ok {
		t.Fatal("a plain configuration is to begin among the node's mounts")
	}
	var failure error
	thread.ThrownAway(func() {
		failure = func() error {
			if err := a.enter(paths); err != nil {
				return err
			}
			info, err := os.ReadFile("/proc/thread-self/mountinfo")
			if err != nil {
				return err
			}
			if n := strings.Count(string(info), "\n"); n > 100 || strings.Contains(string(info), "/others/") {
				return fmt.Errorf("%d mounts:\n%s", n, info)
			}
			for name, want := range map[string]string{filepath.Join(inner, "data"): "in the volume", filepath.Join(dir, "hosts"): "a file"} {
				if text, err := os.ReadFile(name); err != nil || string(text) != want {
					return fmt.Errorf("%s: %q, %w", name, text, err)
				}
			}
			return unix.Mount("test", own, "tmpfs", 0, "size=64k") // nobody else sees it
		}()
	})
	if failure != nil {
		t.Fatal(failure)
	}
	node, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(node), own) {
		t.Error("what is mounted in an anteroom is seen on the node")
	}
}

func TestWhatNeedsTheNodeBeginsOnTheNode(t *testing.T) {
	a := newAnterooms("/run/troupe/monitor")
	for what, change := range map[string]func(*configs.Config){
		"hooks":                func(c *configs.Config) { c.Hooks = configs.Hooks{configs.Prestart: nil} },
		"a user namespace":     func(c *configs.Config) { c.Namespaces.Add(configs.NEWUSER, "") },
		"a shared root":        func(c *configs.Config) { c.RootPropagation = unix.MS_SHARED | unix.MS_REC },
		"a bidirectional bind": func(c *configs.Config) { c.Mounts[0].PropagationFlags = []int{unix.MS_SHARED | unix.MS_REC} },
		"the whole node":       func(c *configs.Config) { c.Mounts[0].Source = "/" },
		"all of /run":          func(c *configs.Config) { c.Mounts[0].Source = "/run" },
		"what holds the root":  func(c *configs.Config) { c.Mounts[0].Source = "/var/lib" },
		"an idmapped mount":    func(c *configs.Config) { c.Mounts[0].IDMapping = &configs.MountIDMapping{} },
		"a relative source":    func(c *configs.Config) { c.Mounts[0].Source = "volume" },
	} {
		config := plainConfig("/var/lib/troupe/rootfs", "/srv/volume")
		if _, ok := a.needs(config); !ok {
			t.Fatal("a plain configuration is to begin among the node's mounts")
		}
		change(config)
		if paths, ok := a.needs(config); ok {
			t.Errorf("%s: begins with %v", what, paths)
		}
	}
}

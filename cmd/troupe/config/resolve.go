package config

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// The cgroup managers.
const (
	CgroupSystemd = "systemd"
	CgroupFS      = "cgroupfs"
)

// derive fills the defaults that follow from other options, except those a
// file has set.
func (c *Config) derive(set map[string]bool) {
	for _, o := range Options() {
		if o.derived != nil && !set[o.Key] {
			o.put(c, "", o.derived(c))
		}
	}
}

// UseCgroupManager is the cgroup manager to use on this machine: the one the
// file names, else systemd where it is PID 1 (sd_booted(3)).
func (c *Config) UseCgroupManager() string {
	if c.Runtime.CgroupManager != "" {
		return c.Runtime.CgroupManager
	}
	if info, err := os.Stat("/run/systemd/system"); err == nil && info.IsDir() {
		return CgroupSystemd
	}
	return CgroupFS
}

// UseCgroupParent is the cgroup for pods that name none, in the form the
// manager wants.
func (c *Config) UseCgroupParent() string {
	switch {
	case c.Troupe.CgroupParent != "":
		return c.Troupe.CgroupParent
	case c.UseCgroupManager() == CgroupSystemd:
		return "troupe.slice"
	}
	return "/troupe"
}

// UsePluginDirs is where CNI plugins are looked for, in order.
func (c *Config) UsePluginDirs() []string {
	if c.Network.PluginDir == "" {
		return c.Network.PluginDirs
	}
	return append([]string{c.Network.PluginDir}, c.Network.PluginDirs...)
}

const monitorName = "troupe-monitor"

// FindMonitor is the path of the monitor's binary.
func (c *Config) FindMonitor() (string, error) {
	if path := c.Troupe.MonitorPath; path != "" {
		if err := executable(path); err != nil {
			return "", fmt.Errorf("troupe.monitor_path: %w; install %s there or correct the option", err, monitorName)
		}
		return path, nil
	}
	for _, dir := range monitorDirs() {
		if path := filepath.Join(dir, monitorName); executable(path) == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(monitorName)
	if err != nil {
		return "", fmt.Errorf("%s is not beside %s, not in ../libexec/troupe or /usr/libexec/troupe and not in $PATH; install it or set monitor_path in [troupe]", monitorName, os.Args[0])
	}
	return path, nil
}

func monitorDirs() []string {
	dirs := []string{"/usr/libexec/troupe", "/usr/local/libexec/troupe"}
	if self, err := os.Executable(); err == nil {
		bin := filepath.Dir(self)
		dirs = append([]string{bin, filepath.Join(bin, "../libexec/troupe")}, dirs...)
	}
	return dirs
}

func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s does not exist", path)
	case err != nil:
		return err
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return fmt.Errorf("%s is not an executable file", path)
	}
	return nil
}

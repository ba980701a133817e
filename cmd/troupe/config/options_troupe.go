package config

import (
	"path/filepath"
	"time"
)

var troupeOptions = []Option{
	honoured("troupe.root", "/var/lib/troupe", func(c *Config) *string { return &c.Troupe.Root },
		"Records and files of pods and containers; survives a reboot.", filled, absolute),
	honoured("troupe.run", "/run/troupe", func(c *Config) *string { return &c.Troupe.Run },
		"Sockets, namespaces and what a reboot may clear.", filled, absolute),
	honoured("troupe.monitor_path", "", func(c *Config) *string { return &c.Troupe.MonitorPath },
		"The troupe-monitor binary. Empty: beside the troupe binary, else in its ../libexec/troupe or /usr/libexec/troupe, else in $PATH.", absolute),
	honoured("troupe.debug_listen", "", func(c *Config) *string { return &c.Troupe.DebugListen },
		"The socket of `troupe tree`, `timeline`, `images` and `check`. \"none\" switches it off.",
		derived(func(c *Config) string { return filepath.Join(c.Troupe.Run, "debug.sock") }), check(socketOrNone)),
	honoured("troupe.log_format", "text", func(c *Config) *string { return &c.Troupe.LogFormat },
		"How log lines look: text or json.", oneOf("text", "json")),
	honoured("troupe.cgroup_parent", "", func(c *Config) *string { return &c.Troupe.CgroupParent },
		"The cgroup of pods for which the kubelet names none (crictl, critest): a path with cgroupfs, a slice with systemd. Empty: /troupe or troupe.slice."),
	honoured("troupe.drain_timeout", 20*time.Second, func(c *Config) *time.Duration { return &c.Troupe.DrainTimeout },
		"How long SIGTERM waits for calls that are under way. Containers live on in any case.", check(notNegative)),
	honoured("troupe.sweep_grace", 5*time.Minute, func(c *Config) *time.Duration { return &c.Troupe.SweepGrace },
		"How long something that no pod owns must have been seen before it is dropped.", check(positive)),
	honoured("troupe.min_free_mib", 0, func(c *Config) *int { return &c.Troupe.MinFree },
		"MiB of the images' file system that no pull may take: one that would is refused before it begins.", atLeast(0)),
	honoured("troupe.start_lane", 16, func(c *Config) *int { return &c.Troupe.Lanes.Start },
		"How many pods and containers are being made or started at a time; the others queue.", atLeast(1)),
	honoured("troupe.stop_lane", 64, func(c *Config) *int { return &c.Troupe.Lanes.Stop },
		"How many are being stopped or removed at a time.", atLeast(1)),
	honoured("troupe.probe_lane", 64, func(c *Config) *int { return &c.Troupe.Lanes.Probe },
		"How many ExecSync calls run at a time.", atLeast(1)),
	honoured("troupe.pull_lane", 32, func(c *Config) *int { return &c.Troupe.Lanes.Image },
		"How many registries are asked for a manifest, and images committed or removed, at a time.", atLeast(1)),
	honoured("troupe.layer_lane", 6, func(c *Config) *int { return &c.Troupe.Lanes.Layer },
		"How many layers of all pulls are downloaded and unpacked at a time, the biggest first: the connections to registries.", atLeast(1)),
	honoured("troupe.read_lane", 64, func(c *Config) *int { return &c.Troupe.Lanes.Read },
		"How many look-ups on the node run at a time.", atLeast(1)),
}

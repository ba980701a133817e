package config

import (
	"path/filepath"
	"time"
)

// NRI is the Node Resource Interface.
type NRI struct {
	Enable               bool
	Listen               string // path of a unix socket
	PluginDir, ConfigDir string
	DisableConnections   bool
	Registration         time.Duration // of a plugin
	Request              time.Duration // to a plugin
}

// nriOptions are on by default, as in CRI-O and containerd: without a plugin
// they cost a socket.
var nriOptions = []Option{
	honoured("crio.nri.enable_nri", true, func(c *Config) *bool { return &c.NRI.Enable },
		"Serve NRI plugins. The daemon does not start when it cannot."),
	honoured("crio.nri.nri_listen", "/var/run/nri/nri.sock", func(c *Config) *string { return &c.NRI.Listen },
		"The socket plugins connect to.", check(socket)),
	honoured("crio.nri.nri_plugin_dir", "/opt/nri/plugins", func(c *Config) *string { return &c.NRI.PluginDir },
		"Plugins that are started with the daemon, named like 10-name.", filled, absolute),
	honoured("crio.nri.nri_plugin_config_dir", "/etc/nri/conf.d", func(c *Config) *string { return &c.NRI.ConfigDir },
		"Their configurations, named like 10-name.conf or name.conf.", filled, absolute),
	honoured("crio.nri.nri_disable_connections", false, func(c *Config) *bool { return &c.NRI.DisableConnections },
		"Serve only the plugins in nri_plugin_dir: there is no socket."),
	honoured("crio.nri.nri_plugin_registration_timeout", 5*time.Second, func(c *Config) *time.Duration { return &c.NRI.Registration },
		"How long a plugin may take to register.", check(positive)),
	honoured("crio.nri.nri_plugin_request_timeout", 2*time.Second, func(c *Config) *time.Duration { return &c.NRI.Request },
		"How long a plugin may take for a request. One that takes longer is disconnected, and the pod or container goes on without it.", check(positive)),
}

// UseNRISocket is where plugins connect; empty: nowhere.
func (c *Config) UseNRISocket() string {
	if c.NRI.DisableConnections {
		return ""
	}
	return filepath.Clean(SocketPath(c.NRI.Listen))
}

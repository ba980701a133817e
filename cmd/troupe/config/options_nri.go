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
	Validator            NRIValidator
}

// NRIValidator says what plugins may not do. Nothing is checked without Enable.
type NRIValidator struct {
	Enable, RejectHooks, RejectNamespaces                              bool
	RejectDefaultSeccomp, RejectUnconfinedSeccomp, RejectCustomSeccomp bool
	Required                                                           []string // names of plugins
	Tolerate                                                           string   // annotation
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

	validating("nri_enable_default_validator", func(v *NRIValidator) *bool { return &v.Enable },
		"Check what plugins make of containers; a container that fails is not created. The rest of this table says what is checked."),
	validating("nri_validator_reject_oci_hook_adjustment", func(v *NRIValidator) *bool { return &v.RejectHooks },
		"No plugin may add OCI hooks."),
	validating("nri_validator_reject_runtime_default_seccomp_adjustment", func(v *NRIValidator) *bool { return &v.RejectDefaultSeccomp },
		"No plugin may change the runtime's default seccomp profile."),
	validating("nri_validator_reject_unconfined_seccomp_adjustment", func(v *NRIValidator) *bool { return &v.RejectUnconfinedSeccomp },
		"No plugin may give a seccomp profile to a container that is to have none."),
	validating("nri_validator_reject_custom_seccomp_adjustment", func(v *NRIValidator) *bool { return &v.RejectCustomSeccomp },
		"No plugin may change a seccomp profile of the node (Localhost)."),
	validating("nri_validator_reject_namespace_adjustment", func(v *NRIValidator) *bool { return &v.RejectNamespaces },
		"No plugin may change namespaces."),
	honoured(nriValidatorTable+".nri_validator_required_plugins", []string{}, func(c *Config) *[]string { return &c.NRI.Validator.Required },
		"Plugins without which no container is created."),
	honoured(nriValidatorTable+".nri_validator_tolerate_missing_plugins_annotation", "", func(c *Config) *string { return &c.NRI.Validator.Tolerate },
		"A pod with this annotation, \"true\", may do without them."),
}

func validating(name string, field func(*NRIValidator) *bool, doc string) Option {
	return honoured(nriValidatorTable+"."+name, false, func(c *Config) *bool { return field(&c.NRI.Validator) }, doc)
}

// UseNRISocket is where plugins connect; empty: nowhere.
func (c *Config) UseNRISocket() string {
	if c.NRI.DisableConnections {
		return ""
	}
	return filepath.Clean(SocketPath(c.NRI.Listen))
}

package main

import (
	"log/slog"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/bundles"
	"github.com/troupe-run/troupe/backends/nri"
	"github.com/troupe-run/troupe/cmd/troupe/config"
)

// buildPlugins makes the backend that NRI plugins are served by; they are
// served when the pods are known.
func (m *machine) buildPlugins(c *config.Config, b *bundles.Config, log *slog.Logger) {
	if !c.NRI.Enable {
		m.Plugins = backends.NoPlugins{}
		return
	}
	v := c.NRI.Validator
	m.plugins = nri.New(nri.Config{
		Socket: c.UseNRISocket(), PluginDir: c.NRI.PluginDir, ConfigDir: c.NRI.ConfigDir,
		Registration: c.NRI.Registration, Request: c.NRI.Request, Version: buildOf().Version,
		Validator: nri.Validator{
			Enable: v.Enable, RejectOCIHookAdjustment: v.RejectHooks, RejectNamespaceAdjustment: v.RejectNamespaces,
			RejectRuntimeDefaultSeccompAdjustment: v.RejectDefaultSeccomp, RejectUnconfinedSeccompAdjustment: v.RejectUnconfinedSeccomp,
			RejectCustomSeccompAdjustment: v.RejectCustomSeccomp, RequiredPlugins: v.Required, TolerateMissingAnnotation: v.Tolerate,
		},
		Spec: bundles.SpecPath(c.Troupe.Root), Log: log,
	})
	m.Plugins, b.Adjust, m.closers = m.plugins, m.plugins.Adjust, append(m.closers, m.plugins.Close)
}

// servePlugins lets plugins in. That it cannot is an error, as in CRI-O: on a
// node where plugins place containers, none may start without them.
func (d *daemon) servePlugins() error {
	if d.machine.plugins == nil {
		return nil
	}
	if err := d.machine.plugins.Serve(d.tree); err != nil {
		return &config.Error{Err: err}
	}
	return nil
}

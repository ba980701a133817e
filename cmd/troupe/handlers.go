package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/troupe-run/troupe/backends/bundles"
	"github.com/troupe-run/troupe/backends/monitor"
	"github.com/troupe-run/troupe/cmd/troupe/config"
	"github.com/troupe-run/troupe/cri"
	"golang.org/x/sys/unix"
)

// handlers are the runtime handlers as this machine can run them.
type handlers struct {
	offered  []cri.Handler
	unusable map[string]string          // and why
	runtimes map[string]monitor.Runtime // the offered ones that are a binary
}

// findHandlers looks at the binaries of all handlers. One that cannot be used
// is named in the log and not offered; only the default must be there, since
// nothing may stand in for what the operator chose.
func findHandlers(c *config.Config, log *slog.Logger) (*handlers, error) {
	h := &handlers{unusable: map[string]string{}, runtimes: map[string]monitor.Runtime{}}
	for _, name := range c.HandlerNames() {
		err := h.add(c, name, log.With("handler", name))
		switch {
		case err == nil:
		case name == c.Runtime.DefaultHandler:
			return nil, &config.Error{Err: fmt.Errorf("default_runtime %s: %w", name, err)}
		default:
			log.Error("runtime handler cannot be used: pods that ask for it are refused", "handler", name, "error", err)
			h.unusable[name] = err.Error()
		}
	}
	return h, nil
}

func (h *handlers) add(c *config.Config, name string, log *slog.Logger) error {
	table := c.Handlers[name]
	offer := cri.Handler{Name: name, MinMemory: table.MinMemoryBytes(), AllowedAnnotations: table.AllowedAnnotations, RecursiveReadOnly: kernelHasRecursiveReadOnly()}
	if !table.Builtin() {
		path, err := c.FindRuntime(name)
		if err != nil {
			return err
		}
		features, err := monitor.Probe(context.Background(), path)
		if err != nil {
			return err
		}
		log.Info("runtime handler found", "path", path, "version", features.Version, "recursiveReadOnly", features.RecursiveReadOnly, "idmap", features.IDMap)
		offer.UserNamespaces = features.IDMap
		offer.RecursiveReadOnly = offer.RecursiveReadOnly && features.RecursiveReadOnly
		h.runtimes[name] = monitor.Runtime{Kind: features.Kind, Path: path, Root: table.Root, CreateTimeout: table.CreateTimeout()}
	}
	h.offered = append(h.offered, offer)
	return nil
}

// kernelHasRecursiveReadOnly: Linux 5.12. With a descriptor that cannot be, a
// kernel that knows the call complains about that, an older one about the call.
func kernelHasRecursiveReadOnly() bool {
	return unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}) != unix.ENOSYS
}

// forBundles is what differs between the containers of one handler and another.
func (h *handlers) forBundles(c *config.Config) map[string]bundles.Handler {
	all := map[string]bundles.Handler{}
	for name, h := range c.Handlers {
		all[name] = bundles.Handler{
			PrivilegedWithoutHostDevices: h.PrivilegedNoDevices,
			AllowedAnnotations:           h.AllowedAnnotations, DefaultAnnotations: h.DefaultAnnotations,
			SeccompProfile: h.SeccompProfile, ExecCPUAffinity: h.ExecCPUAffinity,
		}
	}
	for _, offer := range h.offered {
		b := all[offer.Name]
		b.NoRecursiveReadOnly = !offer.RecursiveReadOnly
		all[offer.Name] = b
	}
	return all
}

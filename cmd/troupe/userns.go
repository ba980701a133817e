package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/troupe-run/troupe/backends/namespaces"
	"github.com/troupe-run/troupe/backends/rootfs"
	"github.com/troupe-run/troupe/cmd/troupe/config"
	"github.com/troupe-run/troupe/cri"
)

// canMapUsers tries, once at the start, whether pods can have user namespaces
// here: kernels, their settings and file systems differ too much to go by a
// version. A node that cannot still serves all other pods.
func canMapUsers(roots *rootfs.Rootfs, c *config.Config, log *slog.Logger) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	where, err := storeOptions(c.Storage)
	if err == nil {
		err = namespaces.TryUserNamespace(func(path string) error { return roots.CanMap(ctx, where.GraphRoot, path) })
	}
	if err == nil {
		err = os.Chmod(c.Troupe.Run, 0o711) // the way to the pause root
	}
	if err != nil {
		log.Warn("pods with user namespaces (hostUsers: false) are refused: this node cannot run them", "error", err)
	}
	return err == nil
}

// withUserNamespaces advertises them for the built-in handlers, also together
// with the host's network. A runtime binary must be able to shift volumes too.
func withUserNamespaces(c cri.Config, handlers map[string]*config.Handler, mapped bool) cri.Config {
	for i, h := range c.Handlers {
		builtin := handlers[h.Name] != nil && handlers[h.Name].Type == config.TypeLibcontainer
		c.Handlers[i].UserNamespaces = mapped && (builtin || h.UserNamespaces)
	}
	c.Features.UserNamespacesHostNetwork = mapped
	return c
}

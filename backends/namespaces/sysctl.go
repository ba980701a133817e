package namespaces

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// setting is one sysctl that may be written.
type setting struct {
	name, path, value string
	ipc               bool // of the IPC namespace
	byDefault         bool // the configuration's, not the pod's
}

// planSysctls refuses, before anything is made, every sysctl that would change
// the node or another pod. Which ones belong to a namespace is the list of the
// Kubernetes documentation ("Using sysctls in a Kubernetes Cluster").
func planSysctls(r backends.NamespaceRequest) ([]setting, error) {
	settings := make([]setting, 0, len(r.Sysctls))
	for name, value := range r.Sysctls {
		parts, err := splitSysctl(name)
		if err != nil {
			return nil, err
		}
		if strings.ContainsAny(value, "\n\x00") {
			return nil, messages.Errorf(messages.Invalid, "sysctl %s: its value has a line break or a zero byte", name)
		}
		if err := checkNamespaced(name, parts, r); err != nil {
			return nil, err
		}
		settings = append(settings, setting{
			name: name, path: "/proc/sys/" + filepath.Join(parts...), value: value, ipc: isIPCSysctl(strings.Join(parts, ".")),
		})
	}
	// One order, so that two pods with the same sysctls fail at the same one.
	slices.SortFunc(settings, func(a, b setting) int { return strings.Compare(a.name, b.name) })
	return settings, nil
}

// defaultsFor are the configured sysctls that concern the pod: those of
// namespaces of its own that it does not set itself.
func (b *Backend) defaultsFor(r backends.NamespaceRequest, own []setting) []setting {
	var chosen []setting
	for _, d := range b.defaults {
		overridden := slices.ContainsFunc(own, func(s setting) bool { return s.path == d.path })
		if has := d.ipc && r.IPC || !d.ipc && r.Network; has && !overridden {
			d.byDefault = true
			chosen = append(chosen, d)
		}
	}
	return chosen
}

// splitSysctl reads a name as sysctl(8) does: the first separator, '.' or '/',
// separates; the other one is then part of a name (net/ipv4/conf/eth0.100/…).
func splitSysctl(name string) ([]string, error) {
	separator, other := ".", "/"
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '/' {
		separator, other = "/", "."
	}
	parts := strings.Split(name, separator)
	for i, part := range parts {
		if separator == "." {
			part = strings.ReplaceAll(part, other, ".")
		}
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "/\x00\n") {
			return nil, messages.Errorf(messages.Invalid, "sysctl %q: not a valid name", name)
		}
		parts[i] = part
	}
	return parts, nil
}

func checkNamespaced(name string, parts []string, r backends.NamespaceRequest) error {
	dotted := strings.Join(parts, ".")
	switch {
	case parts[0] == "net":
		if !r.Network {
			return sharedError(name, "network", "hostNetwork")
		}
	case isIPCSysctl(dotted):
		if !r.IPC {
			return sharedError(name, "IPC", "hostIPC")
		}
	case dotted == "kernel.hostname" || dotted == "kernel.domainname":
		return messages.Errorf(messages.Invalid, "sysctl %s: set the pod's hostname and subdomain instead", name)
	default:
		return messages.Errorf(messages.Invalid, "sysctl %s: not namespaced, it would change the whole node; set it on the node itself", name)
	}
	return nil
}

func isIPCSysctl(dotted string) bool {
	return dotted == "kernel.sem" ||
		strings.HasPrefix(dotted, "kernel.shm") ||
		strings.HasPrefix(dotted, "kernel.msg") ||
		strings.HasPrefix(dotted, "fs.mqueue.")
}

func sharedError(name, namespace, field string) error {
	return messages.Errorf(messages.Invalid, "sysctl %s: the pod uses the node's %s namespace (%s), setting it would change the node", name, namespace, field)
}

// write sets the value for the namespaces of the calling thread: /proc/sys
// shows net.* and the IPC sysctls of whoever opens the file.
func (s setting) write() error {
	f, err := os.OpenFile(s.path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(s.value)
		err = errors.Join(err, f.Close())
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EISDIR):
		return messages.Errorf(messages.Invalid, "sysctl %s: this kernel has none of that name (or its module is not loaded)", s.name)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return messages.Errorf(messages.Invalid, "sysctl %s: read-only in a namespace of the pod's own: %w", s.name, err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE):
		return messages.Errorf(messages.Invalid, "sysctl %s: the kernel refuses the value %q: %w", s.name, s.value, err)
	}
	return fmt.Errorf("sysctl %s=%s: %w", s.name, s.value, err)
}

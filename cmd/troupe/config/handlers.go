package config

import (
	"fmt"
	"maps"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// Handler is one runtime handler.
type Handler struct {
	Type                string // libcontainer, oci, vm or pod; empty: oci (crio.conf(5))
	Path                string
	PlatformPaths       map[string]string // by platform, e.g. "linux/arm64"
	Root                string
	Inherit             bool
	CreateSeconds       int
	MinMemory           string // e.g. 12MiB; see MinMemoryBytes
	AllowedAnnotations  []string
	DefaultAnnotations  map[string]string
	PrivilegedNoDevices bool
	SeccompProfile      string // path, "unconfined", or empty: [crio.runtime]'s
	ExecCPUAffinity     string // first, or empty

	program string // to look up in $PATH; empty: the handler's name
}

// newHandler is a table without options in it.
func newHandler() *Handler {
	return &Handler{
		CreateSeconds: createTimeout, MinMemory: "12MiB",
		PlatformPaths: map[string]string{}, AllowedAnnotations: []string{}, DefaultAnnotations: map[string]string{},
	}
}

func (h *Handler) clone() *Handler {
	next := *h
	next.PlatformPaths, next.DefaultAnnotations = maps.Clone(h.PlatformPaths), maps.Clone(h.DefaultAnnotations)
	next.AllowedAnnotations = slices.Clone(h.AllowedAnnotations)
	return &next
}

// MinMemoryBytes is the least memory limit a container may have; 0: any.
func (h *Handler) MinMemoryBytes() int64 {
	bytes, _ := parseSize(h.MinMemory) // checked when it was read
	return bytes
}

// parseSize reads "12MiB", "500KiB" or a number of bytes; empty is 0.
func parseSize(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	bytes, err := units.RAMInBytes(text)
	if err != nil || bytes < 0 {
		return 0, fmt.Errorf("is %q; use a size like 12MiB", text)
	}
	return bytes, nil
}

// CreateTimeout is how long the runtime's binary may take to make a container.
func (h *Handler) CreateTimeout() time.Duration {
	return time.Duration(max(h.CreateSeconds, minCreateTimeout)) * time.Second
}

// Builtin says whether the handler needs no binary.
func (h *Handler) Builtin() bool { return h.Type == TypeLibcontainer }

// external says whether the handler is a binary that is run by its command line.
func (h *Handler) external() bool { return h.Type == "" || h.Type == TypeOCI }

// FindRuntime is the path of the handler's binary: the one for this platform,
// the one that is named, or one in $PATH by the handler's name.
func (c *Config) FindRuntime(name string) (string, error) {
	h, key := c.Handlers[name], handlerPrefix+name+"."
	if path := h.PlatformPaths[runtime.GOOS+"/"+runtime.GOARCH]; path != "" {
		return path, at(key+"platform_runtime_paths", executable(path))
	}
	if h.Path != "" {
		return h.Path, at(key+"runtime_path", executable(h.Path))
	}
	program := name
	if h.program != "" {
		program = h.program
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("%s is not in $PATH; install it or set %sruntime_path", program, key)
	}
	return path, nil
}

func at(option string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w; install it there or correct the option", option, err)
	}
	return nil
}

// HandlerNames are the handlers that pods may ask for if their binaries are
// there, sorted.
func (c *Config) HandlerNames() []string {
	names := slices.Sorted(maps.Keys(c.Handlers))
	return slices.DeleteFunc(names, func(name string) bool {
		return !c.Handlers[name].Builtin() && !c.Handlers[name].external()
	})
}

// checkHandlers sees to it that there is a default handler, and names those
// that can never be offered. Whether the binaries are there is for the start.
func (l *Loaded) checkHandlers() []error {
	if name := l.Runtime.DefaultHandler; l.Handlers[name] == nil && (name == "crun" || name == "runc") {
		l.handler(name) // CRI-O has these without a table
	}
	l.inherit()
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(l.Handlers)) {
		h, key := l.Handlers[name], handlerPrefix+name
		switch {
		case name == BuiltinHandler && !h.Builtin():
			faults = append(faults, fmt.Errorf("%s: %s.runtime_type is %q; leave it out, this handler is built in", l.fileOf(key), key, h.Type))
		case !h.Builtin() && !h.external():
			l.Findings = append(l.Findings, Finding{
				File: l.fileOf(key), Key: key + ".runtime_type", Value: literal(h.Type),
				Why: "pods that ask for this handler are refused: " + unsupported[h.Type],
			})
		}
	}
	return append(faults, l.checkDefaultHandler()...)
}

// unsupported says why a type of handler is not there.
var unsupported = map[string]string{
	TypeVM:  "a virtual machine needs a containerd shim, which troupe does not speak to",
	TypePod: "it needs conmon-rs; troupe-monitor is the one monitor of all containers here",
}

// inherit lets handlers that ask for it take the default's binary.
func (l *Loaded) inherit() {
	from := l.Handlers[l.Runtime.DefaultHandler]
	for _, h := range l.Handlers {
		if h.Inherit && from != nil && h != from {
			h.Type, h.Path, h.Root = from.Type, from.Path, from.Root
			h.PlatformPaths = maps.Clone(from.PlatformPaths)
			h.program = l.Runtime.DefaultHandler
		}
	}
}

func (l *Loaded) checkDefaultHandler() []error {
	const key = "crio.runtime.default_runtime"
	name := l.Runtime.DefaultHandler
	h := l.Handlers[name]
	switch {
	case h == nil:
		return []error{fmt.Errorf("%s: %s is %q, which has no table [%s%s]; use %q, which is built in",
			l.fileOf(key), key, name, handlerPrefix, name, BuiltinHandler)}
	case !h.Builtin() && !h.external():
		return []error{fmt.Errorf("%s: %s is %q, a handler of type %s: %s; use %q",
			l.fileOf(key), key, name, h.Type, unsupported[h.Type], BuiltinHandler)}
	}
	return nil
}

// fileOf is the last file that set the option, or one under the table.
func (l *Loaded) fileOf(key string) string {
	if file, ok := l.set[key]; ok {
		return file
	}
	for _, set := range slices.Sorted(maps.Keys(l.set)) {
		if strings.HasPrefix(set, key+".") {
			return l.set[set]
		}
	}
	if len(l.Files) > 0 {
		return l.Files[len(l.Files)-1]
	}
	return "default"
}

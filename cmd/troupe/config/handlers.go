package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// checkHandlers sees to it that there is a default handler that works, and
// names those that cannot be offered yet.
func (l *Loaded) checkHandlers() []error {
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(l.Handlers)) {
		h := l.Handlers[name]
		if name == BuiltinHandler && h.Type != TypeLibcontainer {
			faults = append(faults, fmt.Errorf("%s%s.runtime_type is %q; leave it out, this handler is built in",
				handlerPrefix, name, h.Type))
			continue
		}
		if !h.works() {
			l.Findings = append(l.Findings, Finding{
				File: l.fileOf(handlerPrefix + name), Key: handlerPrefix + name + ".runtime_type", Value: literal(h.kind()),
				Why: "pods that ask for this handler are refused until runtime binaries are there",
			})
		}
	}
	return append(faults, l.checkDefaultHandler()...)
}

// checkDefaultHandler lets libcontainer stand in for an OCI runtime, so that a
// CRI-O node's own file starts; it never stands in for stronger isolation.
func (l *Loaded) checkDefaultHandler() []error {
	const key = "crio.runtime.default_runtime"
	name := l.Runtime.DefaultHandler
	h := l.Handlers[name]
	if h == nil && (name == "crun" || name == "runc") { // CRI-O has these without a table
		h = &Handler{Type: TypeOCI}
	}
	switch {
	case h == nil:
		return []error{fmt.Errorf("%s: %s is %q, which has no table [%s%s]; use %q, which is built in",
			l.fileOf(key), key, name, handlerPrefix, name, BuiltinHandler)}
	case h.works():
		return nil
	case !h.substitutable():
		return []error{fmt.Errorf("%s: %s is %q, a handler of type %s, which does not work yet; use %q",
			l.fileOf(key), key, name, h.Type, BuiltinHandler)}
	}
	l.Runtime.DefaultHandler = BuiltinHandler
	l.Findings = append(l.Findings, Finding{
		File: l.fileOf(key), Key: key, Value: literal(name),
		Why: "runtime binaries are not there yet; " + BuiltinHandler + ", which is built in, runs these pods",
	})
	return nil
}

func (h *Handler) kind() string {
	if h.Type == "" {
		return TypeOCI
	}
	return h.Type
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

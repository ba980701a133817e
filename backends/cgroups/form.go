package cgroups

import (
	"path"
	"strings"
	"unicode"

	"github.com/troupe-run/troupe/messages"
)

// form checks that a cgroup parent has the form of the manager in use and
// gives it back clean. The two are told apart by the suffix ".slice": the
// kubelet sends "/kubepods/burstable/pod…" with its cgroupDriver cgroupfs and
// "/kubepods.slice/kubepods-burstable.slice/…slice" with systemd.
func (b *Backend) form(parent string) (string, error) {
	for element := range strings.SplitSeq(parent, "/") {
		if element == "." || element == ".." || strings.ContainsFunc(element, unicode.IsControl) {
			return "", messages.Errorf(messages.Invalid, "cgroup parent %q: must not have %q in it", parent, element)
		}
	}
	slice := strings.HasSuffix(parent, ".slice")
	switch {
	case b.manager == Systemd && !slice:
		return "", messages.Errorf(messages.Invalid, "cgroup parent %q: not a systemd slice, but cgroup_manager is %q; "+
			"set cgroupDriver: systemd in the kubelet's configuration, or cgroup_manager = %q here", parent, Systemd, Cgroupfs)
	case b.manager == Cgroupfs && slice:
		return "", messages.Errorf(messages.Invalid, "cgroup parent %q: a systemd slice, but cgroup_manager is %q; "+
			"set cgroupDriver: cgroupfs in the kubelet's configuration, or cgroup_manager = %q here", parent, Cgroupfs, Systemd)
	case slice:
		return sliceName(parent)
	}
	return path.Join("/", parent), nil
}

// sliceName is the unit at the end of the path: a slice's name says where it
// is ("a-b.slice" is in "a.slice"), so the rest of the path adds nothing
// (systemd.slice(5)).
func sliceName(parent string) (string, error) {
	name := path.Base(parent)
	stem := strings.TrimSuffix(name, ".slice")
	if stem == "" || (stem != "-" && (strings.HasPrefix(stem, "-") || strings.HasSuffix(stem, "-") || strings.Contains(stem, "--"))) {
		return "", messages.Errorf(messages.Invalid, "cgroup parent %q: %q is not the name of a slice (systemd.slice(5))", parent, name)
	}
	return name, nil
}

package bundles

import (
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
)

const allCapabilities = "ALL"

// defaultCapabilities is default_capabilities of crio.conf(5) when unset.
func defaultCapabilities(configured []string) []string {
	if configured != nil {
		return configured
	}
	return []string{"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "KILL"}
}

// capabilities: the node's defaults, with what is added and without what is
// dropped; ALL stands for every one of them and single names win over it.
// Nothing is inheritable unless it is ambient: a container with inheritable
// capabilities gets those of files too (CVE-2022-24769).
func (b *bundle) capabilities() error {
	if b.sc.GetPrivileged() {
		all := slices.Clone(b.node.capabilities)
		b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
		return nil
	}
	asked := b.sc.GetCapabilities()
	add, err := parseCapabilities("add_capabilities", asked.GetAddCapabilities())
	if err != nil {
		return err
	}
	drop, err := parseCapabilities("drop_capabilities", asked.GetDropCapabilities())
	if err != nil {
		return err
	}
	ambient, err := parseCapabilities("add_ambient_capabilities", asked.GetAddAmbientCapabilities())
	if err != nil {
		return err
	}
	ambient = b.available(without(expand(ambient, b.node.capabilities), drop))
	set := b.defaults.capabilities
	if slices.Contains(add, allCapabilities) {
		set = b.node.capabilities
	}
	if slices.Contains(drop, allCapabilities) {
		set = nil
	}
	set = slices.Concat(set, without(add, []string{allCapabilities}), ambient)
	set = b.available(without(set, drop))
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: set, Effective: set, Permitted: set, Inheritable: ambient, Ambient: ambient,
	}
	return nil
}

// available leaves out what this process does not have itself: a runtime would
// fail to start the container with it.
func (b *bundle) available(set []string) []string {
	given := []string{}
	var missing []string
	for _, c := range unique(set) {
		if slices.Contains(b.node.capabilities, c) {
			given = append(given, c)
		} else {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		b.log.Warn("capabilities this node cannot give are left out", "capabilities", missing)
	}
	return given
}

func without(set, drop []string) []string {
	return slices.DeleteFunc(slices.Clone(set), func(c string) bool { return slices.Contains(drop, c) })
}

func expand(set, all []string) []string {
	if slices.Contains(set, allCapabilities) {
		return all
	}
	return set
}

// parseCapabilities writes names as CAP_NAME; ALL stays ALL.
func parseCapabilities(field string, names []string) ([]string, error) {
	var parsed []string
	for _, name := range names {
		n := strings.ToUpper(name)
		if n == allCapabilities || n == "CAP_"+allCapabilities {
			parsed = append(parsed, allCapabilities)
			continue
		}
		n = "CAP_" + strings.TrimPrefix(n, "CAP_")
		if !slices.Contains(knownCapabilities, n) {
			return nil, messages.Errorf(messages.Invalid, "%s: %q is not a capability (see capabilities(7))", field, name)
		}
		parsed = append(parsed, n)
	}
	return parsed, nil
}

var knownCapabilities = func() []string {
	var names []string
	for _, c := range capability.ListKnown() {
		names = append(names, capName(c))
	}
	return names
}()

func capName(c capability.Cap) string { return "CAP_" + strings.ToUpper(c.String()) }

package cri

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func validatePodLinux(linux *runtime.LinuxPodSandboxConfig) error {
	return in("linux", firstOf(
		validateCgroupParent(linux.GetCgroupParent()),
		validateSysctls(linux.GetSysctls()),
		in("security_context", validatePodSecurity(linux.GetSecurityContext())),
	))
}

// validateCgroupParent: a path of cgroups or a slice, which must not climb.
func validateCgroupParent(parent string) error {
	if strings.ContainsFunc(parent, unicode.IsControl) || slices.Contains(strings.Split(parent, "/"), "..") {
		return invalid("cgroup_parent", "%q: must not contain '..' or control characters", parent)
	}
	if strings.Contains(parent, ":") {
		return invalid("cgroup_parent", "%q: must not contain ':'", parent)
	}
	return nil
}

var sysctlForm = regexp.MustCompile(`^[a-zA-Z0-9][-_a-zA-Z0-9]*([./][a-zA-Z0-9][-_a-zA-Z0-9]*)+$`)

// validateSysctls: a value is one line of text. CVE-2022-0811 was a value with
// '+', which separated sysctls in a helper's command line; no sysctl needs one.
func validateSysctls(sysctls map[string]string) error {
	for name, value := range sysctls {
		if !sysctlForm.MatchString(name) {
			return invalid("sysctls", "%q: is not the name of a sysctl (like net.ipv4.ip_forward)", name)
		}
		if strings.ContainsRune(value, '+') || strings.ContainsFunc(value, func(r rune) bool { return r != '\t' && unicode.IsControl(r) }) {
			return invalid("sysctls", "%s: value %q must be one line of text without '+'", name, value)
		}
	}
	return nil
}

// validateDNS keeps one entry from becoming several in resolv.conf.
func validateDNS(dns *runtime.DNSConfig) error {
	for i, server := range dns.GetServers() {
		if _, err := netip.ParseAddr(server); err != nil {
			return invalid(fmt.Sprintf("dns_config.servers[%d]", i), "%q: must be an IP address", server)
		}
	}
	for _, list := range []struct {
		field  string
		values []string
	}{{"searches", dns.GetSearches()}, {"options", dns.GetOptions()}} {
		for i, v := range list.values {
			if v == "" || strings.ContainsFunc(v, isSpaceOrControl) {
				return invalid(fmt.Sprintf("dns_config.%s[%d]", list.field, i), "%q: must be one word", v)
			}
		}
	}
	return nil
}

func validatePorts(ports []*runtime.PortMapping) error {
	type hostPort struct {
		protocol runtime.Protocol
		ip       string
		port     int32
	}
	taken := map[hostPort]int{}
	for i, p := range ports {
		field := fmt.Sprintf("port_mappings[%d]", i)
		if err := in(field, validatePort(p)); err != nil {
			return err
		}
		key := hostPort{p.GetProtocol(), p.GetHostIp(), p.GetHostPort()}
		if other, ok := taken[key]; ok && p.GetHostPort() != 0 {
			return invalid(field+".host_port", "%d: is the same as in port_mappings[%d]", p.GetHostPort(), other)
		}
		taken[key] = i
	}
	return nil
}

// validatePort: host port 0 asks for none (cri-api, PortMapping).
func validatePort(p *runtime.PortMapping) error {
	if err := validateEnum("protocol", p.GetProtocol(), runtime.Protocol_name); err != nil {
		return err
	}
	const last = 65535
	switch {
	case p.GetHostPort() < 0 || p.GetHostPort() > last:
		return invalid("host_port", "%d: must be between 0 and %d", p.GetHostPort(), last)
	case p.GetContainerPort() < 0 || p.GetContainerPort() > last:
		return invalid("container_port", "%d: must be between 0 and %d", p.GetContainerPort(), last)
	case p.GetHostPort() > 0 && p.GetContainerPort() == 0:
		return invalid("container_port", "is missing: host port %d leads nowhere", p.GetHostPort())
	}
	if ip := p.GetHostIp(); ip != "" {
		if _, err := netip.ParseAddr(ip); err != nil {
			return invalid("host_ip", "%q: must be an IP address", ip)
		}
	}
	return nil
}

func validatePodSecurity(sc *runtime.LinuxSandboxSecurityContext) error {
	options := sc.GetNamespaceOptions()
	pod, node := runtime.NamespaceMode_POD, runtime.NamespaceMode_NODE
	return firstOf(
		validateMode("network", options.GetNetwork(), pod, node),
		validateMode("ipc", options.GetIpc(), pod, node),
		validateMode("pid", options.GetPid(), pod, runtime.NamespaceMode_CONTAINER, node),
		validateUserNamespace(options),
		validateRunAs(sc.GetRunAsUser(), sc.GetRunAsGroup(), ""),
		validateGroups(sc.GetSupplementalGroups(), sc.GetSupplementalGroupsPolicy()),
		validateProfile("seccomp", sc.GetSeccomp()),
		validateProfile("apparmor", sc.GetApparmor()),
	)
}

func validateMode(field string, mode runtime.NamespaceMode, allowed ...runtime.NamespaceMode) error {
	if !slices.Contains(allowed, mode) {
		return invalid("namespace_options."+field, "%s: must be one of %v", mode, allowed)
	}
	return nil
}

// validateProfile: a name is needed exactly for a profile of the node.
func validateProfile(field string, p *runtime.SecurityProfile) error {
	if err := validateEnum(field+".profile_type", p.GetProfileType(), runtime.SecurityProfile_ProfileType_name); err != nil {
		return err
	}
	local := p.GetProfileType() == runtime.SecurityProfile_Localhost
	switch ref := p.GetLocalhostRef(); {
	case local && ref == "":
		return invalid(field+".localhost_ref", "is empty: name the profile on the node")
	case !local && ref != "":
		return invalid(field+".localhost_ref", "%q: must only be set with profile_type Localhost", ref)
	case local && field == "seccomp" && !path.IsAbs(ref):
		return invalid(field+".localhost_ref", "%q: must be an absolute path", ref)
	case strings.ContainsFunc(ref, unicode.IsControl):
		return invalid(field+".localhost_ref", "%q: must not contain control characters", ref)
	}
	return nil
}

package cni

import (
	"math"
	"math/big"
	"regexp"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// runtimeConf is what the plugins are told about the pod. libcni passes each
// capability only to the plugins that declare it (CONVENTIONS.md of the CNI
// specification has their names and forms).
func runtimeConf(r backends.NetworkRequest) (*libcni.RuntimeConf, error) {
	args := [][2]string{
		{"IgnoreUnknown", "1"}, // plugins that know none of the others must not fail
		{"K8S_POD_NAMESPACE", r.Namespace},
		{"K8S_POD_NAME", r.Name},
		{"K8S_POD_INFRA_CONTAINER_ID", r.Pod},
		{"K8S_POD_UID", r.UID},
	}
	for _, arg := range args {
		// They become "K=V;K=V" in the environment.
		if strings.ContainsAny(arg[1], ";=\n\x00") {
			return nil, messages.Errorf(messages.Invalid, "%s=%q: must not have ';', '=' or line breaks in it", arg[0], arg[1])
		}
	}
	capabilities := map[string]any{}
	if mappings := portMappings(r); len(mappings) > 0 {
		capabilities["portMappings"] = mappings
	}
	if dns := r.DNS; dns != nil {
		capabilities["dns"] = map[string]any{"servers": dns.Servers, "searches": dns.Searches, "options": dns.Options}
	}
	if r.Cgroup != "" {
		capabilities["cgroupPath"] = r.Cgroup
	}
	if len(r.Annotations) > 0 {
		capabilities["io.kubernetes.cri.pod-annotations"] = r.Annotations
	}
	limits, err := bandwidth(r.Annotations)
	if err != nil {
		return nil, err
	}
	if limits != nil {
		capabilities["bandwidth"] = limits
	}
	return &libcni.RuntimeConf{ContainerID: r.Pod, NetNS: r.NetNS, IfName: ifName, Args: args, CapabilityArgs: capabilities}, nil
}

func portMappings(r backends.NetworkRequest) []map[string]any {
	var mappings []map[string]any
	for _, p := range mapped(r) {
		mappings = append(mappings, map[string]any{
			"hostPort":      p.HostPort,
			"containerPort": p.ContainerPort,
			"protocol":      strings.ToLower(p.Protocol.String()),
			"hostIP":        p.HostIp,
		})
	}
	return mappings
}

// bandwidth reads the annotations of Kubernetes' traffic shaping. The plugin
// takes bits a second, and needs a burst, which Kubernetes does not limit.
func bandwidth(annotations map[string]string) (map[string]any, error) {
	limits := map[string]any{}
	for _, direction := range []string{"ingress", "egress"} {
		name := "kubernetes.io/" + direction + "-bandwidth"
		text, set := annotations[name]
		if !set {
			continue
		}
		rate, err := quantity(text)
		if err != nil {
			return nil, messages.Errorf(messages.Invalid, "annotation %s: %w", name, err)
		}
		limits[direction+"Rate"], limits[direction+"Burst"] = rate, int64(math.MaxInt32)
	}
	if len(limits) == 0 {
		return nil, nil
	}
	return limits, nil
}

var quantityForm = regexp.MustCompile(`^(\d{1,18}(?:\.\d{1,9})?)(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$`)

// quantity reads a Kubernetes quantity, "10M" or "1.5Gi", between the bounds
// Kubernetes sets for bandwidths, 1k and 1P.
func quantity(text string) (int64, error) {
	parts := quantityForm.FindStringSubmatch(text)
	if parts == nil {
		return 0, messages.Errorf(messages.Invalid, "%q is not a quantity like 10M", text)
	}
	value, _ := new(big.Rat).SetString(parts[1])
	if suffix := parts[2]; suffix != "" {
		base := int64(1000)
		if strings.HasSuffix(suffix, "i") {
			base = 1024
		}
		power := big.NewInt(int64(strings.Index("KMGTP", strings.ToUpper(suffix[:1])) + 1))
		value.Mul(value, new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(base), power, nil)))
	}
	if value.Cmp(big.NewRat(1e3, 1)) < 0 || value.Cmp(big.NewRat(1e15, 1)) > 0 {
		return 0, messages.Errorf(messages.Invalid, "%q is not between 1k and 1P", text)
	}
	return new(big.Int).Quo(value.Num(), value.Denom()).Int64(), nil
}

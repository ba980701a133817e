package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What Version answers beside the daemon's own version: the kubelet's CRI API
// is v1, and its "version" has been 0.1.0 ever since (cri-api, VersionResponse).
const (
	kubeletAPIVersion = "0.1.0"
	runtimeAPIVersion = "v1"
)

// Version says who we are.
func (s *Server) Version(context.Context, *runtime.VersionRequest) (*runtime.VersionResponse, error) {
	return &runtime.VersionResponse{
		Version:           kubeletAPIVersion,
		RuntimeName:       s.config.RuntimeName,
		RuntimeVersion:    s.config.Version,
		RuntimeApiVersion: runtimeAPIVersion,
	}, nil
}

// Status gives the node's two conditions and what its handlers can do.
func (s *Server) Status(_ context.Context, r *runtime.StatusRequest) (*runtime.StatusResponse, error) {
	view := s.node.View()
	response := &runtime.StatusResponse{
		Status: &runtime.RuntimeStatus{Conditions: []*runtime.RuntimeCondition{
			condition(runtime.RuntimeReady, view.Runtime()),
			condition(runtime.NetworkReady, view.Network()),
		}},
		RuntimeHandlers: s.runtimeHandlers(),
		Features:        s.config.Features,
	}
	var err error
	if r.GetVerbose() {
		response.Info, err = s.statusInfo()
	}
	return response, err
}

func condition(name string, c messages.Condition) *runtime.RuntimeCondition {
	return &runtime.RuntimeCondition{Type: name, Status: c.OK, Reason: printable(c.Reason), Message: printable(c.Message)}
}

// runtimeHandlers lists the default handler twice, under its name and under
// "", the name of pods that ask for none: so the kubelet finds its features
// either way, as it does with CRI-O and containerd.
func (s *Server) runtimeHandlers() []*runtime.RuntimeHandler {
	var handlers []*runtime.RuntimeHandler
	for _, h := range s.config.Handlers {
		features := &runtime.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: h.RecursiveReadOnly, UserNamespaces: h.UserNamespaces}
		handlers = append(handlers, &runtime.RuntimeHandler{Name: h.Name, Features: features})
		if h.Name == s.config.DefaultHandler {
			handlers = append(handlers, &runtime.RuntimeHandler{Name: "", Features: features})
		}
	}
	return handlers
}

func (s *Server) statusInfo() (map[string]string, error) {
	config, err := json.Marshal(s.config.Shown)
	if err != nil {
		return nil, messages.Errorf(messages.Internal, "encode the configuration for a verbose status: %w", err)
	}
	return map[string]string{"config": printable(string(config))}, nil
}

// RuntimeConfig says which cgroup driver the kubelet must use too.
func (s *Server) RuntimeConfig(context.Context, *runtime.RuntimeConfigRequest) (*runtime.RuntimeConfigResponse, error) {
	return &runtime.RuntimeConfigResponse{Linux: &runtime.LinuxRuntimeConfiguration{CgroupDriver: s.config.CgroupDriver}}, nil
}

// UpdateRuntimeConfig takes the node's pod CIDR, one or one of each family with
// a comma between, for CNI plugins with the capability ipRanges; an empty one
// changes nothing (cri-api, NetworkConfig.pod_cidr).
func (s *Server) UpdateRuntimeConfig(ctx context.Context, r *runtime.UpdateRuntimeConfigRequest) (*runtime.UpdateRuntimeConfigResponse, error) {
	ranges, err := podRanges(r.GetRuntimeConfig().GetNetworkConfig().GetPodCidr())
	if err != nil {
		return nil, err
	}
	if len(ranges) > 0 {
		if _, err := ask(ctx, s.node, messages.SetPodRanges{Call: callOf(ctx), Ranges: ranges}); err != nil {
			return nil, fmt.Errorf("update the pod CIDR: %w", err)
		}
	}
	return &runtime.UpdateRuntimeConfigResponse{}, nil
}

func podRanges(cidr string) ([]netip.Prefix, error) {
	if cidr == "" {
		return nil, nil
	}
	var ranges []netip.Prefix
	for part := range strings.SplitSeq(cidr, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, invalid("runtime_config.network_config.pod_cidr", "%q: must be an address range like 10.1.0.0/24, or one of each family with a comma between", cidr)
		}
		if slices.ContainsFunc(ranges, func(o netip.Prefix) bool { return o.Addr().Is4() == p.Addr().Is4() }) {
			return nil, invalid("runtime_config.network_config.pod_cidr", "%q: has two ranges of one family", cidr)
		}
		ranges = append(ranges, p.Masked())
	}
	return ranges, nil
}

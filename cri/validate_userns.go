package cri

import (
	"fmt"
	"math"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const usernsField = "namespace_options.userns_options"

// validateUserNamespace: POD with exactly one mapping of users and one of
// groups that begins with root, or NODE without any. It is what kubelets send
// and what critest demands to be refused otherwise.
func validateUserNamespace(options *runtime.NamespaceOption) error {
	asked := options.GetUsernsOptions()
	if asked == nil {
		return nil
	}
	switch mode := asked.GetMode(); {
	case mode == runtime.NamespaceMode_NODE && len(asked.GetUids())+len(asked.GetGids()) > 0:
		return invalid(usernsField, "has mappings with mode NODE: leave them out, or set mode POD")
	case mode == runtime.NamespaceMode_NODE:
		return nil
	case mode != runtime.NamespaceMode_POD:
		return invalid(usernsField+".mode", "%s: must be POD or NODE", mode)
	case options.GetPid() == runtime.NamespaceMode_NODE:
		return invalid(usernsField, "a pod with a user namespace cannot be in the node's PID namespace: the kernel lets it mount no /proc of it")
	case options.GetIpc() == runtime.NamespaceMode_NODE:
		return invalid(usernsField, "a pod with a user namespace cannot be in the node's IPC namespace, which belongs to the node's root")
	}
	return firstOf(validatePodMapping("uids", asked.GetUids()), validatePodMapping("gids", asked.GetGids()))
}

func validatePodMapping(name string, mappings []*runtime.IDMapping) error {
	field := usernsField + "." + name
	if len(mappings) != 1 {
		return invalid(field, "%d mappings: there must be exactly one", len(mappings))
	}
	if id := mappings[0].GetContainerId(); id != 0 {
		return invalid(field+"[0].container_id", "%d: must be 0, a container needs a root", id)
	}
	return validateMapping(field+"[0]", mappings[0])
}

func validateMapping(field string, m *runtime.IDMapping) error {
	if m.GetLength() == 0 {
		return invalid(field+".length", "0: must be at least 1")
	}
	for _, from := range []uint32{m.GetHostId(), m.GetContainerId()} {
		if uint64(from)+uint64(m.GetLength()) > math.MaxUint32 {
			return invalid(field, "%d ids from %d on: ids are below %d", m.GetLength(), from, uint32(math.MaxUint32))
		}
	}
	return nil
}

// validateMountMappings: the kernel shifts users and groups, or neither.
func validateMountMappings(m *runtime.Mount) error {
	if (len(m.GetUidMappings()) == 0) != (len(m.GetGidMappings()) == 0) {
		return invalid("uid_mappings, gid_mappings", "only one of them is set for %s: set both, or none", m.GetContainerPath())
	}
	for i, one := range m.GetUidMappings() {
		if err := validateMapping(fmt.Sprintf("uid_mappings[%d]", i), one); err != nil {
			return err
		}
	}
	for i, one := range m.GetGidMappings() {
		if err := validateMapping(fmt.Sprintf("gid_mappings[%d]", i), one); err != nil {
			return err
		}
	}
	return nil
}

// checkUserNamespaces refuses a user namespace where the handler or the node
// has none; both are found out at the start of the daemon.
func (s *Server) checkUserNamespaces(c *runtime.PodSandboxConfig, handler string) error {
	if messages.UserNamespaceOf(c.GetLinux().GetSecurityContext().GetNamespaceOptions(), "") == nil {
		return nil
	}
	for _, h := range s.config.Handlers {
		if h.Name == handler && !h.UserNamespaces {
			return messages.Errorf(messages.Precondition, "config.linux.security_context.%s: handler %q has no user namespaces on this node (the daemon's log says why at its start): set the pod's hostUsers to true", usernsField, handler)
		}
	}
	return nil
}

package cri

import (
	"strings"
	"time"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// listPods gives the pods that match all of the filter. An id may be a prefix,
// and one that nobody has matches nothing; labels match exactly.
func listPods(view messages.View, filter *runtime.PodSandboxFilter) []*runtime.PodSandbox {
	var items []*runtime.PodSandbox
	for _, pod := range view.Pods() {
		if matchesPod(pod, filter) {
			items = append(items, listedPod(pod))
		}
	}
	return items
}

func matchesPod(pod *messages.PodSnapshot, filter *runtime.PodSandboxFilter) bool {
	return strings.HasPrefix(pod.ID, filter.GetId()) &&
		(filter.GetState() == nil || filter.GetState().GetState() == pod.CRIState()) &&
		hasLabels(pod.Config.GetLabels(), filter.GetLabelSelector())
}

// hasLabels says whether all of the wanted labels are there.
func hasLabels(labels, wanted map[string]string) bool {
	for key, value := range wanted {
		if have, ok := labels[key]; !ok || have != value {
			return false
		}
	}
	return true
}

// listedPod shares maps with the snapshot, which is immutable; so is a response.
func listedPod(pod *messages.PodSnapshot) *runtime.PodSandbox {
	return &runtime.PodSandbox{
		Id:             pod.ID,
		Metadata:       pod.Config.GetMetadata(),
		State:          pod.CRIState(),
		CreatedAt:      nanos(pod.CreatedAt),
		Labels:         pod.Config.GetLabels(),
		Annotations:    pod.Config.GetAnnotations(),
		RuntimeHandler: pod.Handler,
	}
}

func podStatus(pod *messages.PodSnapshot) *runtime.PodSandboxStatus {
	return &runtime.PodSandboxStatus{
		Id:             pod.ID,
		Metadata:       pod.Config.GetMetadata(),
		State:          pod.CRIState(),
		CreatedAt:      nanos(pod.CreatedAt),
		Network:        networkStatus(pod.IPs),
		Linux:          &runtime.LinuxPodSandboxStatus{Namespaces: &runtime.Namespace{Options: namespaceOptions(pod.Config)}},
		Labels:         pod.Config.GetLabels(),
		Annotations:    pod.Config.GetAnnotations(),
		RuntimeHandler: pod.Handler,
	}
}

// networkStatus is empty, not absent, for a pod on the node's network: its
// addresses are the kubelet's to know (cri-api, PodSandboxNetworkStatus).
func networkStatus(ips []string) *runtime.PodSandboxNetworkStatus {
	network := &runtime.PodSandboxNetworkStatus{}
	for i, ip := range ips {
		if i == 0 {
			network.Ip = ip
			continue
		}
		network.AdditionalIps = append(network.AdditionalIps, &runtime.PodIP{Ip: ip})
	}
	return network
}

// namespaceOptions are the modes as asked for; not asked for is the zero
// value, POD, which is what the pod then got.
func namespaceOptions(config *runtime.PodSandboxConfig) *runtime.NamespaceOption {
	if options := config.GetLinux().GetSecurityContext().GetNamespaceOptions(); options != nil {
		return options
	}
	return &runtime.NamespaceOption{}
}

// nanos is a time as CRI wants it; the zero time is 0.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// podInfo is what a verbose status adds. "info" is the key crictl shows.
func podInfo(pod *messages.PodSnapshot) (map[string]string, error) {
	return info(map[string]any{
		"sandboxID":  pod.ID,
		"state":      pod.State,
		"reason":     pod.Reason,
		"activity":   pod.Activity,
		"timeline":   pod.Timeline,
		"namespaces": pod.Namespaces,
		"ips":        pod.IPs,
		"cgroup":     pod.Cgroup,
		"handler":    pod.Handler,
		"config":     pod.Config,
	})
}

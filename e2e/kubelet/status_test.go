//go:build kubelet

package kubelet

import (
	"fmt"
	"strings"
	"time"
)

// pod is what the kubelet says of a pod: as much of core/v1 as is looked at.
type pod struct {
	Metadata struct {
		Name, Namespace, UID string
	}
	Status status
}

type status struct {
	Phase, Reason, Message, PodIP, HostIP, QOSClass string
	Conditions                                      []condition
	Resize                                          string
	InitContainerStatuses, ContainerStatuses        []containerStatus
}

type condition struct{ Type, Status, Reason, Message string }

type containerStatus struct {
	Name, ContainerID, Image, ImageID string
	Ready                             bool
	Started                           *bool
	RestartCount                      int
	State, LastState                  containerState
	Resources                         *struct{ Limits, Requests map[string]string }
	AllocatedResources                map[string]string
	User                              *struct {
		Linux struct {
			UID, GID           int64
			SupplementalGroups []int64
		}
	}
	StopSignal string
}

type containerState struct {
	Waiting    *struct{ Reason, Message string }
	Running    *struct{ StartedAt time.Time }
	Terminated *terminated
}

type terminated struct {
	ExitCode              int
	Signal                int
	Reason, Message       string
	StartedAt, FinishedAt time.Time
	ContainerID           string
}

// is says whether the pod has a condition that is true.
func (s *status) is(kind string) bool {
	for _, c := range s.Conditions {
		if c.Type == kind {
			return c.Status == "True"
		}
	}
	return false
}

// of finds the status of a container; one that is not there is all zero.
func (s *status) of(name string) containerStatus {
	for _, list := range [][]containerStatus{s.ContainerStatuses, s.InitContainerStatuses} {
		for _, c := range list {
			if c.Name == name {
				return c
			}
		}
	}
	return containerStatus{}
}

// waits says whether the container waits for this reason.
func (c containerStatus) waits(reason string) bool {
	return c.State.Waiting != nil && c.State.Waiting.Reason == reason
}

// ended says how the container ended last; nil when it never did.
func (c containerStatus) ended() *terminated {
	if c.State.Terminated != nil {
		return c.State.Terminated
	}
	return c.LastState.Terminated
}

// String is what a reader of a failed test wants to know.
func (s *status) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s", s.Phase, s.Reason, s.Message)
	for _, c := range s.Conditions {
		if c.Status != "True" || c.Message != "" {
			fmt.Fprintf(&b, "; %s=%s %s %s", c.Type, c.Status, c.Reason, c.Message)
		}
	}
	for _, list := range [][]containerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for _, c := range list {
			fmt.Fprintf(&b, "; %s: ready %v, restarts %d, now %s, before %s", c.Name, c.Ready, c.RestartCount, c.State, c.LastState)
		}
	}
	return b.String()
}

func (s containerState) String() string {
	switch {
	case s.Waiting != nil:
		return fmt.Sprintf("waiting (%s: %s)", s.Waiting.Reason, s.Waiting.Message)
	case s.Running != nil:
		return "running"
	case s.Terminated != nil:
		return fmt.Sprintf("ended (%s %d: %s)", s.Terminated.Reason, s.Terminated.ExitCode, s.Terminated.Message)
	}
	return "nothing"
}

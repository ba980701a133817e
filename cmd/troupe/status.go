package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// nodeStatus is what `troupe status` tells.
type nodeStatus struct {
	Ready        bool           `json:"ready"`
	Runtime      string         `json:"runtime"`
	Version      string         `json:"version"`
	CRI          string         `json:"cri"`
	Conditions   []condition    `json:"conditions"`
	Handlers     []string       `json:"handlers"`
	CgroupDriver string         `json:"cgroupDriver"`
	Pods         map[string]int `json:"pods"`
	Containers   map[string]int `json:"containers"`
	Images       int            `json:"images"`
}

type condition struct {
	Type    string `json:"type"`
	OK      bool   `json:"ok"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// errNotReady is exit status 1 with the reasons in the table above.
var errNotReady = errors.New("status: the node is not ready: see the conditions")

func statusCommand(o *options) *cobra.Command {
	var out output
	on := criTarget("status")
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether the daemon runs and the node is ready (exit status 1 if not)",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s *nodeStatus
			err := on.with(cmd.Context(), o.source, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
				s, err = askStatus(ctx, conn)
				return err
			})
			if err != nil {
				return err
			}
			if err := out.print(cmd, s, s.table); err != nil {
				return err
			}
			if !s.Ready {
				return errNotReady
			}
			return nil
		},
	}
	on.flag(cmd)
	out.flag(cmd)
	return cmd
}

func askStatus(ctx context.Context, conn *grpc.ClientConn) (*nodeStatus, error) {
	service := runtime.NewRuntimeServiceClient(conn)
	s := &nodeStatus{Ready: true, Pods: map[string]int{}, Containers: map[string]int{}}
	v, err := service.Version(ctx, &runtime.VersionRequest{})
	if err != nil {
		return nil, err
	}
	s.Runtime, s.Version, s.CRI = v.GetRuntimeName(), v.GetRuntimeVersion(), v.GetRuntimeApiVersion()
	st, err := service.Status(ctx, &runtime.StatusRequest{})
	if err != nil {
		return nil, err
	}
	s.conditions(st)
	c, err := service.RuntimeConfig(ctx, &runtime.RuntimeConfigRequest{})
	if err != nil {
		return nil, err
	}
	s.CgroupDriver = strings.ToLower(c.GetLinux().GetCgroupDriver().String())
	return s, s.count(ctx, service, runtime.NewImageServiceClient(conn))
}

func (s *nodeStatus) conditions(st *runtime.StatusResponse) {
	for _, c := range st.GetStatus().GetConditions() {
		s.Ready = s.Ready && c.GetStatus()
		s.Conditions = append(s.Conditions, condition{Type: c.GetType(), OK: c.GetStatus(), Reason: c.GetReason(), Message: c.GetMessage()})
	}
	for _, h := range st.GetRuntimeHandlers() {
		if h.GetName() != "" { // "" is the default handler a second time
			s.Handlers = append(s.Handlers, h.GetName())
		}
	}
}

func (s *nodeStatus) count(ctx context.Context, service runtime.RuntimeServiceClient, images runtime.ImageServiceClient) error {
	pods, err := service.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	for _, p := range pods.GetItems() {
		s.Pods[strings.ToLower(strings.TrimPrefix(p.GetState().String(), "SANDBOX_"))]++
	}
	containers, err := service.ListContainers(ctx, &runtime.ListContainersRequest{})
	if err != nil {
		return err
	}
	for _, c := range containers.GetContainers() {
		s.Containers[strings.ToLower(strings.TrimPrefix(c.GetState().String(), "CONTAINER_"))]++
	}
	list, err := images.ListImages(ctx, &runtime.ListImagesRequest{})
	s.Images = len(list.GetImages())
	return err
}

func (s *nodeStatus) table(t *table) {
	t.row(s.Runtime, s.Version+", CRI "+s.CRI)
	for _, c := range s.Conditions {
		text := "yes"
		if !c.OK {
			text = strings.TrimSpace("NO: " + c.Reason + " " + c.Message)
		}
		t.row(c.Type, text)
	}
	t.row("handlers", strings.Join(s.Handlers, ", "))
	t.row("cgroup driver", s.CgroupDriver)
	t.row("pods", counts(s.Pods))
	t.row("containers", counts(s.Containers))
	t.row("images", s.Images)
}

// counts is "3 (2 ready, 1 notready)".
func counts(by map[string]int) string {
	var parts []string
	total := 0
	for state, n := range by {
		parts = append(parts, fmt.Sprintf("%d %s", n, state))
		total += n
	}
	if total == 0 {
		return "0"
	}
	slices.Sort(parts)
	return fmt.Sprintf("%d (%s)", total, strings.Join(parts, ", "))
}

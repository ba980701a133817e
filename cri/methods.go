package cri

import (
	"path"
	"time"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// method is how an RPC is treated at the door.
type method struct {
	lane lane
	// within is how long a caller without a deadline gets; 0 is no deadline,
	// noDefault refuses it.
	within func(base time.Duration, request any) time.Duration
}

// methods are the RPCs, by full name: all there are, as a test finds by
// cri-api's descriptors.
//
// The kubelet always brings a deadline of its own; the defaults are the same
// as its (k8s.io/cri-client pkg/remote_runtime.go, where base is 2 min): they
// keep a client without one from waiting for ever.
var methods = map[string]method{
	runtime.RuntimeService_Version_FullMethodName:             {reads, base},
	runtime.RuntimeService_Status_FullMethodName:              {reads, base},
	runtime.RuntimeService_RuntimeConfig_FullMethodName:       {reads, base},
	runtime.RuntimeService_UpdateRuntimeConfig_FullMethodName: {reads, base},

	runtime.RuntimeService_RunPodSandbox_FullMethodName:      {work, twice},
	runtime.RuntimeService_StopPodSandbox_FullMethodName:     {stops, base},
	runtime.RuntimeService_RemovePodSandbox_FullMethodName:   {stops, base},
	runtime.RuntimeService_PodSandboxStatus_FullMethodName:   {reads, base},
	runtime.RuntimeService_ListPodSandbox_FullMethodName:     {reads, base},
	runtime.RuntimeService_StreamPodSandboxes_FullMethodName: {reads, base},

	runtime.RuntimeService_CreateContainer_FullMethodName:    {work, base},
	runtime.RuntimeService_StartContainer_FullMethodName:     {work, base},
	runtime.RuntimeService_StopContainer_FullMethodName:      {stops, plusTimeout},
	runtime.RuntimeService_RemoveContainer_FullMethodName:    {stops, base},
	runtime.RuntimeService_ContainerStatus_FullMethodName:    {reads, base},
	runtime.RuntimeService_ListContainers_FullMethodName:     {reads, base},
	runtime.RuntimeService_StreamContainers_FullMethodName:   {reads, base},
	runtime.RuntimeService_ReopenContainerLog_FullMethodName: {work, base},
	runtime.RuntimeService_ExecSync_FullMethodName:           {execs, plusTimeoutIfAny},
	runtime.RuntimeService_Exec_FullMethodName:               {work, base},
	runtime.RuntimeService_Attach_FullMethodName:             {work, base},
	runtime.RuntimeService_PortForward_FullMethodName:        {work, base},
	runtime.RuntimeService_GetContainerEvents_FullMethodName: {watches, endless},

	runtime.RuntimeService_ContainerStats_FullMethodName:          {reads, base},
	runtime.RuntimeService_ListContainerStats_FullMethodName:      {reads, base},
	runtime.RuntimeService_StreamContainerStats_FullMethodName:    {reads, base},
	runtime.RuntimeService_PodSandboxStats_FullMethodName:         {reads, base},
	runtime.RuntimeService_ListPodSandboxStats_FullMethodName:     {reads, base},
	runtime.RuntimeService_StreamPodSandboxStats_FullMethodName:   {reads, base},
	runtime.RuntimeService_ListMetricDescriptors_FullMethodName:   {reads, base},
	runtime.RuntimeService_ListPodSandboxMetrics_FullMethodName:   {reads, base},
	runtime.RuntimeService_StreamPodSandboxMetrics_FullMethodName: {reads, base},

	runtime.RuntimeService_UpdateContainerResources_FullMethodName:  {work, base},
	runtime.RuntimeService_UpdatePodSandboxResources_FullMethodName: {work, base},

	runtime.RuntimeService_CheckpointContainer_FullMethodName: {work, asLongAs},
	runtime.RuntimeService_CheckpointPod_FullMethodName:       {work, mustBring},
	runtime.RuntimeService_RestorePod_FullMethodName:          {work, mustBring},

	runtime.ImageService_ListImages_FullMethodName:   {reads, base},
	runtime.ImageService_StreamImages_FullMethodName: {reads, base},
	runtime.ImageService_ImageStatus_FullMethodName:  {images, base},
	runtime.ImageService_ImageFsInfo_FullMethodName:  {reads, base},
	runtime.ImageService_PullImage_FullMethodName:    {pulls, endless},
	runtime.ImageService_RemoveImage_FullMethodName:  {images, base},
}

// admit finds how an RPC is treated. A newer client may know more of them.
func admit(full string) (method, error) {
	if m, ok := methods[full]; ok {
		return m, nil
	}
	return method{}, messages.Errorf(messages.Unsupported, "%s is not implemented: this version of the runtime does not know it", path.Base(full))
}

func base(b time.Duration, _ any) time.Duration  { return b }
func twice(b time.Duration, _ any) time.Duration { return 2 * b }
func endless(time.Duration, any) time.Duration   { return 0 }

// plusTimeout is for StopContainer: the grace period comes on top.
func plusTimeout(b time.Duration, request any) time.Duration {
	r, ok := request.(interface{ GetTimeout() int64 })
	if !ok {
		return b
	}
	return b + seconds(r.GetTimeout())
}

// plusTimeoutIfAny is for ExecSync: timeout 0 says that the command may run
// for ever (cri-api, ExecSyncRequest).
func plusTimeoutIfAny(b time.Duration, request any) time.Duration {
	if r, ok := request.(interface{ GetTimeout() int64 }); ok && r.GetTimeout() <= 0 {
		return 0
	}
	return plusTimeout(b, request)
}

// seconds turns a number of seconds from outside into a duration; what is
// negative is 0, and what would overflow is a year.
func seconds(n int64) time.Duration {
	const year = 365 * 24 * time.Hour
	return time.Duration(min(max(n, 0), int64(year/time.Second))) * time.Second
}

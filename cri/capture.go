package cri

import runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

// maxCapture is how much output an ExecSync answer holds, in bytes. CRI allows
// 16 MiB of each stream, but the kubelet's client takes no message above 16 MiB
// as a whole (k8s.io/cri-client pkg/utils.go): a probe that says too much would
// fail because of it.
const maxCapture = 16<<20 - 1<<10

// fit cuts an answer to what the client takes. Each stream keeps at least half,
// if it has so much.
func fit(r *runtime.ExecSyncResponse) *runtime.ExecSyncResponse {
	over := len(r.Stdout) + len(r.Stderr) - maxCapture
	if over <= 0 {
		return r
	}
	fromStdout := min(over, max(0, len(r.Stdout)-maxCapture/2))
	r.Stdout = r.Stdout[:len(r.Stdout)-fromStdout]
	r.Stderr = r.Stderr[:len(r.Stderr)-(over-fromStdout)]
	return r
}

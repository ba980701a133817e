package bundles

import (
	"github.com/troupe-run/troupe/backends"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// superPrivileged is the SELinux type of processes that may touch everything.
const superPrivileged = "spc_t"

// relabel notes the sources of mounts that need the container's label before it
// runs. That walks whole volumes, so it is a step of its own, which survives
// the request (see backends.Volumes). A container that SELinux does not hold
// needs no label, and giving it one would take the volume from its others.
func (b *bundle) relabel(mountLabel string) {
	if mountLabel == "" || b.sc.GetPrivileged() || b.seType() == superPrivileged {
		return
	}
	annotation, allowed := b.annotation("io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel")
	for _, m := range b.r.Config.GetMounts() {
		if m.GetSelinuxRelabel() && m.GetImage().GetImage() == "" {
			b.Relabel = append(b.Relabel, backends.Relabel{
				Path: m.GetHostPath(), Label: mountLabel, IfTopDiffers: allowed && annotation == "true",
			})
		}
	}
}

func (b *bundle) seType() string {
	for _, o := range []*runtime.SELinuxOption{b.sc.GetSelinuxOptions(), b.r.PodConfig.GetLinux().GetSecurityContext().GetSelinuxOptions()} {
		if o != nil {
			return o.GetType()
		}
	}
	return ""
}

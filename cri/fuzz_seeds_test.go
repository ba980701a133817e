package cri_test

import (
	"math/rand/v2"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// validPod is a pod that has something in most of its fields.
func validPod() *runtime.PodSandboxConfig {
	return &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: "web-0", Namespace: "default", Uid: "6f1c"},
		Hostname:     "web-0",
		LogDirectory: "/var/log/pods/default_web-0_6f1c",
		DnsConfig:    &runtime.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"svc.cluster.local"}, Options: []string{"ndots:5"}},
		PortMappings: []*runtime.PortMapping{{ContainerPort: 80}},
		Labels:       map[string]string{"app": "web"},
		Annotations:  map[string]string{"note": "x"},
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent: "/kubepods/pod6f1c",
			Sysctls:      map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"},
			SecurityContext: &runtime.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER},
				Seccomp:          &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault},
			},
			Resources: &runtime.LinuxContainerResources{CpuShares: 2},
		},
	}
}

// validContainer is a container that has something in most of its fields.
func validContainer() *runtime.ContainerConfig {
	return &runtime.ContainerConfig{
		Metadata:    &runtime.ContainerMetadata{Name: "new"},
		Image:       &runtime.ImageSpec{Image: image},
		Command:     []string{"/bin/web"},
		Args:        []string{"-v"},
		WorkingDir:  "/srv",
		Envs:        []*runtime.KeyValue{{Key: "PORT", Value: []byte("80")}},
		Mounts:      []*runtime.Mount{{HostPath: "/data", ContainerPath: "/data", Readonly: true}},
		Devices:     []*runtime.Device{{HostPath: "/dev/fuse", ContainerPath: "/dev/fuse", Permissions: "rwm"}},
		Labels:      map[string]string{"app": "web"},
		Annotations: map[string]string{"note": "x"},
		LogPath:     "web/0.log",
		Linux: &runtime.LinuxContainerConfig{
			Resources: &runtime.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 985},
			SecurityContext: &runtime.LinuxContainerSecurityContext{
				NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER},
				RunAsUser:        &runtime.Int64Value{Value: 0}, SupplementalGroups: []int64{2000},
				Capabilities: &runtime.Capability{AddCapabilities: []string{"NET_BIND_SERVICE"}},
				MaskedPaths:  []string{"/proc/kcore"},
			},
		},
	}
}

// seeds are an input for each RPC as it should be, with all its fields, and
// spoiled a little, and the life of a pod.
func seeds() (all [][]byte) {
	number := map[string]byte{}
	for i, m := range allMethods() {
		n := byte(i)
		number[string(m.Name())] = n
		all = append(all, []byte{n, 0, 0, 0}, []byte{n, 1, 0, 0})
		chance := rand.New(rand.NewPCG(uint64(i), 7))
		for range 3 {
			spoiled := []byte{n, 1, 7}
			for range 60 {
				spoiled = append(spoiled, byte(chance.Uint32()))
			}
			all = append(all, spoiled)
		}
	}
	var life []byte
	for _, name := range []string{"RunPodSandbox", "CreateContainer", "StopContainer", "RemoveContainer", "ExecSync", "StopPodSandbox", "RemovePodSandbox", "ListPodSandbox"} {
		life = append(life, number[name], 0, 0, 0)
	}
	return append(all, life)
}

//go:build kubelet

package kubelet

import (
	"strings"
	"testing"
)

func TestAPodOfSeveralContainersRunsAndIsReady(t *testing.T) {
	p := theNode(t).pod(t, `
containers:
- {name: web, image: IMAGE, command: [sh, -c, "echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]}
- {name: client, image: IMAGE, command: [sleep, "100000"]}
- {name: idle, image: IMAGE}
`)
	s := p.ready(t)
	equal(t, "the phase", s.Phase, "Running")
	equal(t, "the QoS class", s.QOSClass, "BestEffort")
	equal(t, "containers", len(s.ContainerStatuses), 3)
	for _, c := range s.ContainerStatuses {
		if c.State.Running == nil || !c.Ready || c.Started == nil || !*c.Started || c.RestartCount != 0 {
			t.Errorf("container %s is not simply running: %+v", c.Name, c)
		}
		if !strings.HasPrefix(c.ContainerID, "troupe://") || !strings.HasSuffix(c.ImageID, "@"+world.digest) {
			t.Errorf("container %s has id %q and image %q, the manifest is %s", c.Name, c.ContainerID, c.ImageID, world.digest)
		}
	}
	if !strings.HasPrefix(s.PodIP, "10.") {
		t.Errorf("the pod's address is %q", s.PodIP)
	}
	equal(t, "what a container gets from its neighbour on localhost", p.exec(t, "client", "wget -q -O - http://127.0.0.1:8080/"), "hello")
	equal(t, "the hostname", p.exec(t, "client", "hostname"), p.fullName())
	contains(t, "/etc/hosts, which the kubelet makes", p.exec(t, "client", "cat /etc/hosts"), s.PodIP)
	equal(t, "the image's environment", p.exec(t, "idle", "echo $FROM_IMAGE"), "yes")
}

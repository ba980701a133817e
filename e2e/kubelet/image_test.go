//go:build kubelet

package kubelet

import (
	"fmt"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// push puts an image into the registry whose file /version holds the text.
func push(t *testing.T, name, version string) (ref string) {
	t.Helper()
	made, err := harness.BuildImage(harness.ImageSpec{Cmd: []string{"sleep", "100000"}, Files: map[string]string{"version": version}})
	ok(t, err)
	ref, err = world.registry.Push(background, "lab/"+name, "1", made)
	ok(t, err)
	return ref
}

func TestPullPolicies(t *testing.T) {
	n := theNode(t)
	for policy, want := range map[string]string{"Always": "old new", "IfNotPresent": "old old"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			name := "policy-" + strings.ToLower(policy)
			ref := push(t, name, "old")
			dir, err := n.lab.Mkdir(name)
			ok(t, err)
			p := n.pod(t, fmt.Sprintf(`
volumes: [{name: out, hostPath: {path: %s}}]
containers:
- name: a
  image: %s
  imagePullPolicy: %s
  command: [sh, -c, "cat /version >> /out/seen; echo >> /out/seen; while [ ! -e /out/go ]; do sleep 0.1; done; rm /out/go"]
  volumeMounts: [{name: out, mountPath: /out}]
`, dir, ref, policy))
			p.until(t, "the container runs", func(s *status) bool { return s.of("a").State.Running != nil })
			push(t, name, "new") // the tag moves
			ok(t, writeProgram(dir+"/go", ""))
			p.until(t, "it runs again", func(s *status) bool { return s.of("a").RestartCount > 0 && s.of("a").State.Running != nil })
			eventually(t, "it has said which it is", func() bool { return len(strings.Fields(words(t, dir+"/seen"))) == 2 })
			equal(t, "the versions that ran", words(t, dir+"/seen"), want)
		})
	}
}

func TestAnImageThatMayNotBePulledIsSaidToBeMissing(t *testing.T) {
	ref := push(t, "never", "1")
	p := theNode(t).pod(t, "containers: [{name: a, image: "+ref+", imagePullPolicy: Never}]")
	p.until(t, "ErrImageNeverPull", func(s *status) bool { return s.of("a").waits("ErrImageNeverPull") })
	_, err := p.cri.Image.PullImage(background, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}})
	ok(t, err)
	p.ready(t)
}

func TestAnImageThatDoesNotExistIsTriedWithBackOff(t *testing.T) {
	ref := world.registry.Host + "/lab/nowhere:1"
	p := theNode(t).pod(t, "containers: [{name: a, image: "+ref+"}]")
	said := ""
	p.until(t, "ErrImagePull, which says why", func(s *status) bool {
		if s.of("a").waits("ErrImagePull") {
			said = s.of("a").State.Waiting.Message
		}
		return said != ""
	})
	contains(t, "what the operator reads", said, "lab/nowhere")
	p.until(t, "ImagePullBackOff", func(s *status) bool { return s.of("a").waits("ImagePullBackOff") })
}

func TestARegistryThatDoesNotAnswerIsNamedSo(t *testing.T) {
	p := theNode(t).pod(t, "containers: [{name: a, image: '127.0.0.1:1/lab/busybox:1'}]")
	p.until(t, "RegistryUnavailable", func(s *status) bool { return s.of("a").waits("RegistryUnavailable") })
}

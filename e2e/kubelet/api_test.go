//go:build kubelet

package kubelet

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/e2e/harness"
	"golang.org/x/sys/unix"
)

func TestConfigMapsSecretsAndTokens(t *testing.T) {
	c := theCluster(t)
	c.apply(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {color: blue}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: hidden}\nstringData: {password: sesame}\n")
	m := c.run(t, `
automountServiceAccountToken: true
volumes:
- name: all
  projected:
    sources:
    - configMap: {name: settings}
    - secret: {name: hidden, items: [{key: password, path: secret/password, mode: 0400}]}
    - downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
    - serviceAccountToken: {path: token, audience: vault}
containers:
- name: a
  image: IMAGE
  env: [{name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}, {name: HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]
  envFrom: [{prefix: S_, secretRef: {name: hidden}}]
  volumeMounts: [{name: all, mountPath: /all}]
`)
	m.ready(t)
	look := func(command string) string {
		out, err := c.kubelet.Exec(background, "lab", m.name, "a", "sh", "-c", strings.ReplaceAll(command, " ", "\t"))
		ok(t, err)
		return strings.TrimSpace(out)
	}
	equal(t, "the environment", look("echo $COLOR $S_password $HOST"), "blue sesame "+nodeIP)
	equal(t, "the files", look("cat /all/color /all/secret/password /all/name"), "bluesesame"+m.name)
	equal(t, "parts of the token", look("tr -cd . < /all/token | wc -c"), "2")
	contains(t, "the token of the service account", look("ls /var/run/secrets/kubernetes.io/serviceaccount"), "token")
	c.kubectl(t, "patch", "configmap", "settings", "-p", `{"data": {"color": "green"}}`)
	eventually(t, "the change reaches the file", func() bool { return look("cat /all/color") == "green" })
}

// The node's status holds what the runtime says of itself.
func TestTheNodeTellsOfItsRuntime(t *testing.T) {
	c := theCluster(t)
	contains(t, "the runtime's version", c.kubectl(t, "get", "node", c.kubelet.Node, "-o", "jsonpath={.status.nodeInfo.containerRuntimeVersion}"), "troupe://")
	eventually(t, "the node is Ready", func() bool {
		return c.kubectl(t, "get", "node", c.kubelet.Node, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`) == "True"
	})
	handlers := c.kubectl(t, "get", "node", c.kubelet.Node, "-o", "jsonpath={.status.runtimeHandlers}")
	contains(t, "handlers", handlers, "recursiveReadOnlyMounts")
	c.run(t, "containers: [{name: a, image: IMAGE}]").ready(t)
	eventually(t, "the node lists its images", func() bool {
		return strings.Contains(c.kubectl(t, "get", "node", c.kubelet.Node, "-o", "jsonpath={.status.images}"), "lab/busybox")
	})
}

func TestRuntimeClasses(t *testing.T) {
	c := theCluster(t)
	var classes strings.Builder
	for _, handler := range []string{"libcontainer", "crun", "runc", "no-such-handler"} {
		fmt.Fprintf(&classes, "---\napiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: %[1]s}\nhandler: %[1]s\n", handler)
	}
	c.apply(t, classes.String())
	var pods []*member
	for _, handler := range []string{"libcontainer", "crun", "runc"} {
		pods = append(pods, c.run(t, "runtimeClassName: "+handler+"\ncontainers: [{name: a, image: IMAGE, readinessProbe: {exec: {command: ['true']}, periodSeconds: 1}}]"))
	}
	bad := c.run(t, "runtimeClassName: no-such-handler\ncontainers: [{name: a, image: IMAGE}]")
	for _, m := range pods {
		m.ready(t)
		equal(t, "exec in "+m.name, m.exec(t, "a", "echo works"), "works")
	}
	eventually(t, "the event names the handler", func() bool {
		return strings.Contains(c.kubectl(t, "get", "events", "--field-selector", "involvedObject.name="+bad.name, "-o", "jsonpath={.items[*].message}"), "no-such-handler")
	})
}

// KEP-3857: read-only holds for what is mounted below, too. A kubelet without
// an API server knows no runtime class, and so no class that can do it.
func TestRecursivelyReadOnlyMounts(t *testing.T) {
	c := theCluster(t)
	dir, err := c.lab.Mkdir("rro")
	ok(t, err)
	ok(t, os.Mkdir(dir+"/below", 0o755))
	ok(t, unix.Mount("tmpfs", dir+"/below", "tmpfs", 0, ""))
	t.Cleanup(func() { ok(t, unix.Unmount(dir+"/below", unix.MNT_DETACH)) })
	m := c.run(t, `
volumes: [{name: v, hostPath: {path: `+dir+`}}]
containers:
- {name: flat, image: IMAGE, volumeMounts: [{name: v, mountPath: /v, readOnly: true}]}
- {name: deep, image: IMAGE, volumeMounts: [{name: v, mountPath: /v, readOnly: true, recursiveReadOnly: Enabled}]}
`)
	m.ready(t)
	equal(t, "below a read-only mount", m.exec(t, "flat", "touch /v/below/x && echo written"), "written")
	equal(t, "below a recursively read-only one", m.exec(t, "deep", "touch /v/below/y 2>/dev/null || echo refused"), "refused")
}

// Where CRIU works the kubelet gets an archive, elsewhere what CRIU said; the
// container goes on either way.
func TestACheckpointByTheKubelet(t *testing.T) {
	m := theCluster(t).run(t, "containers: [{name: a, image: IMAGE}]")
	before := m.ready(t).of("a")
	out, err := m.kubelet.Post(background, "/checkpoint/lab/"+m.name+"/a")
	works := exec.Command("criu", "check").Run() == nil
	switch {
	case works && (err != nil || !strings.Contains(out, ".tar")):
		t.Errorf("CRIU works here, but the kubelet answers %q, %v", out, err)
	case !works && (err == nil || !strings.Contains(strings.ToLower(err.Error()), "criu")):
		t.Errorf("CRIU does not work here, but the kubelet answers %q, %v", out, err)
	}
	equal(t, "exec afterwards", m.exec(t, "a", "echo works"), "works")
	equal(t, "the container", m.status(t).of("a").ContainerID, before.ContainerID)
}

func TestAResizeByTheAPI(t *testing.T) {
	m := theCluster(t).run(t, resize("100m", "64Mi", "NotRequired"))
	before := m.ready(t).of("a")
	m.kubectl(t, "patch", "pod", m.name, "--subresource", "resize", "-p", `{"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "200m", "memory": "96Mi"}, "limits": {"cpu": "200m", "memory": "96Mi"}}}]}}`)
	s := m.until(t, "the pod is resized", func(s *status) bool {
		r := s.of("a").Resources
		return r != nil && r.Limits["cpu"] == "200m" && r.Limits["memory"] == "96Mi"
	})
	equal(t, "the container", s.of("a").ContainerID, before.ContainerID)
	equal(t, "restarts", s.of("a").RestartCount, 0)
}

func TestAnEphemeralContainerSeesTheOthersProcesses(t *testing.T) {
	m := theCluster(t).run(t, "containers: [{name: a, image: IMAGE, command: [sleep, '424242']}]")
	m.ready(t)
	m.kubectl(t, "debug", m.name, "--image="+world.image, "--target=a", "--container=debugger", "--profile=general", "--", "sh", "-c", "ps > /tmp/seen; cat /tmp/seen")
	eventually(t, "the debugger says what it sees", func() bool {
		out, err := m.kubelet.Get(background, "/containerLogs/lab/"+m.name+"/debugger")
		return err == nil && strings.Contains(out, "sleep 424242")
	})
}

// Deleting a pod by the API keeps its grace period and frees its name.
func TestADeletedPodEndsGracefullyAndGoes(t *testing.T) {
	c := theCluster(t)
	dir, err := c.lab.Mkdir("api-graceful")
	ok(t, err)
	m := c.run(t, `
terminationGracePeriodSeconds: 20
volumes: [{name: out, hostPath: {path: `+dir+`}}]
containers: [{name: a, image: IMAGE, command: [sh, -c, "trap 'sleep 1; echo saved > /out/state; exit 0' TERM; touch /tmp/up; while :; do sleep 0.1; done"], volumeMounts: [{name: out, mountPath: /out}], readinessProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1}}]
`)
	m.ready(t)
	m.kubectl(t, "delete", "pod", m.name, "--wait=true", "--timeout=60s")
	equal(t, "what it saved", words(t, dir+"/state"), "saved")
}

// A pod that fills the disk goes, its neighbour stays.
func TestAPodThatFillsTheDiskIsEvicted(t *testing.T) {
	c := ownCluster(t, nodeOptions{disk: 700, config: map[string]any{
		"evictionHard": map[string]any{"nodefs.available": "40%", "imagefs.available": "40%"}, "evictionPressureTransitionPeriod": "1s",
	}})
	good := c.run(t, "containers: [{name: a, image: IMAGE}]")
	bad := c.run(t, "restartPolicy: Never\ncontainers: [{name: a, image: IMAGE, command: [sh, -c, 'dd if=/dev/zero of=/big bs=1M count=450; exec sleep 100000']}]")
	good.ready(t)
	s := bad.until(t, "the pod that fills the disk is evicted", func(s *status) bool { return s.Phase == "Failed" })
	equal(t, "the reason", s.Reason, "Evicted")
	contains(t, "the message", s.Message, "ephemeral-storage")
	equal(t, "the neighbour's restarts", good.ready(t).of("a").RestartCount, 0)
	eventually(t, "the disk is free again", func() bool {
		used, err := c.disk.Used()
		return err == nil && used < 55
	})
}

// The limit on local storage counts the container's layer and its log.
func TestAPodAboveItsEphemeralStorageLimitIsEvicted(t *testing.T) {
	m := theCluster(t).run(t, "restartPolicy: Never\ncontainers: [{name: a, image: IMAGE, command: [sh, -c, 'dd if=/dev/zero of=/big bs=1M count=40; exec sleep 100000'], resources: {limits: {ephemeral-storage: 20Mi}}}]")
	s := m.until(t, "it is evicted", func(s *status) bool { return s.Phase == "Failed" })
	equal(t, "the reason", s.Reason, "Evicted")
	contains(t, "the message", s.Message, "ephemeral local storage")
}

// Whoever may not pull an image does not get it because another pod could.
func TestAPrivateImageNeedsThePodsOwnSecret(t *testing.T) {
	c := theCluster(t)
	made, err := harness.BuildImage(harness.ImageSpec{Cmd: []string{"sleep", "100000"}, Files: map[string]string{"secret": "yes"}})
	ok(t, err)
	ref, err := world.private.Push(background, "lab/private", "1", made)
	ok(t, err)
	c.kubectl(t, "create", "secret", "docker-registry", "pull", "--docker-server="+world.private.Host, "--docker-username=someone", "--docker-password=sesame")
	spec := "containers: [{name: a, image: " + ref + ", imagePullPolicy: Always}]"
	refused := func(m *member) {
		t.Helper()
		m.until(t, "the image cannot be pulled", func(s *status) bool {
			return s.of("a").waits("ErrImagePull") || s.of("a").waits("ImagePullBackOff")
		})
	}
	refused(c.run(t, spec))
	c.run(t, "imagePullSecrets: [{name: pull}]\n"+spec).ready(t)
	refused(c.run(t, spec))
	// The kubelet asks again for one who has not shown a secret that worked, although the image is there.
	refused(c.run(t, strings.Replace(spec, "Always", "IfNotPresent", 1)))
}

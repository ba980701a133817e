//go:build kubelet

package kubelet

import (
	"os"
	"testing"
)

func TestEmptyDirsAreSharedAndGo(t *testing.T) {
	p := theNode(t).pod(t, `
volumes:
- {name: disk, emptyDir: {}}
- {name: memory, emptyDir: {medium: Memory, sizeLimit: 16Mi}}
containers:
- {name: a, image: IMAGE, command: [sh, -c, "echo from-a > /disk/f; echo from-a > /memory/f; exec sleep 100000"], volumeMounts: [{name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}]}
- {name: b, image: IMAGE, volumeMounts: [{name: disk, mountPath: /disk}, {name: memory, mountPath: /memory, readOnly: true}]}
`)
	p.ready(t)
	eventually(t, "the other container sees both", func() bool {
		return p.exec(t, "b", "cat /disk/f /memory/f 2>/dev/null | xargs") == "from-a from-a"
	})
	equal(t, "the memory volume's kind and size", p.exec(t, "b", "df -k /memory | awk '/memory/{print$1,$2}'"), "tmpfs 16384")
	equal(t, "writing to a read-only mount", p.exec(t, "b", "touch /memory/g 2>/dev/null || echo refused"), "refused")
	p.exec(t, "a", "kill 1; true")
	p.remove(t)
	eventually(t, "the volumes have gone with the pod", func() bool {
		_, err := os.Stat(p.kubelet.Root + "/pods/" + p.uid)
		return os.IsNotExist(err)
	})
}

func TestAnEmptyDirOutlivesItsContainer(t *testing.T) {
	p := theNode(t).pod(t, `
volumes: [{name: disk, emptyDir: {}}]
containers: [{name: a, image: IMAGE, command: [sh, -c, "trap 'exit 1' TERM; echo run >> /disk/f; touch /tmp/up; while :; do sleep 0.1; done"], volumeMounts: [{name: disk, mountPath: /disk}], readinessProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1}}]
`)
	p.ready(t)
	p.exec(t, "a", "kill 1")
	p.until(t, "it is restarted", func(s *status) bool { return s.of("a").RestartCount == 1 && s.of("a").State.Running != nil })
	eventually(t, "the volume has both runs", func() bool { return p.exec(t, "a", "xargs < /disk/f") == "run run" })
}

func TestHostPathsAndSubPaths(t *testing.T) {
	n := theNode(t)
	dir, err := n.lab.Mkdir("hostpath")
	ok(t, err)
	ok(t, os.MkdirAll(dir+"/sub/deep", 0o755))
	ok(t, os.WriteFile(dir+"/sub/file", []byte("content\n"), 0o644))
	p := n.pod(t, `
volumes:
- {name: host, hostPath: {path: `+dir+`, type: Directory}}
- {name: made, hostPath: {path: `+dir+`/made, type: DirectoryOrCreate}}
- {name: file, hostPath: {path: `+dir+`/sub/file, type: File}}
- {name: empty, emptyDir: {}}
containers:
- name: a
  image: IMAGE
  env: [{name: NAME, value: expanded}]
  volumeMounts:
  - {name: host, mountPath: /sub, subPath: sub}
  - {name: host, mountPath: /one-file, subPath: sub/file, readOnly: true}
  - {name: made, mountPath: /made}
  - {name: file, mountPath: /file}
  - {name: empty, mountPath: /expr, subPathExpr: "dir-$(NAME)"}
  - {name: empty, mountPath: /all}
`)
	p.ready(t)
	equal(t, "a subPath that is a directory", p.exec(t, "a", "ls /sub | xargs"), "deep file")
	equal(t, "a subPath that is a file", p.exec(t, "a", "cat /one-file"), "content")
	equal(t, "a file", p.exec(t, "a", "cat /file"), "content")
	equal(t, "a subPath made of the environment", p.exec(t, "a", "touch /expr/x; ls /all/dir-expanded"), "x")
	equal(t, "writing to a read-only file", p.exec(t, "a", "echo no 2>/dev/null > /one-file || echo refused"), "refused")
	p.exec(t, "a", "touch /made/by-container")
	if _, err := os.Stat(dir + "/made/by-container"); err != nil {
		t.Error(err)
	}
}

func TestAHostPathOfTheWrongKindIsRefused(t *testing.T) {
	n := theNode(t)
	p := n.pod(t, `
volumes: [{name: host, hostPath: {path: /does/not/exist, type: Directory}}]
containers: [{name: a, image: IMAGE, volumeMounts: [{name: host, mountPath: /host}]}]
`)
	eventually(t, "the kubelet says so", func() bool {
		return len(n.kubelet.Grep("hostPath type check failed")) > 0
	})
	if p.status(t).of("a").State.Running != nil {
		t.Error("the container runs without its volume")
	}
}

func TestTheDownwardAPI(t *testing.T) {
	p := theNode(t).annotated(t, "labels: {color: blue}\nannotations: {note: hello}", `
volumes:
- name: info
  downwardAPI:
    defaultMode: 0440
    items:
    - {path: labels, fieldRef: {fieldPath: metadata.labels}}
    - {path: note, fieldRef: {fieldPath: "metadata.annotations['note']"}}
    - {path: cpu, resourceFieldRef: {containerName: a, resource: limits.cpu, divisor: 1m}}
containers:
- name: a
  image: IMAGE
  resources: {limits: {cpu: 300m, memory: 64Mi}}
  env:
  - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
  volumeMounts: [{name: info, mountPath: /info}]
`)
	s := p.ready(t)
	contains(t, "labels", p.exec(t, "a", "cat /info/labels"), `color="blue"`)
	equal(t, "an annotation", p.exec(t, "a", "cat /info/note"), "hello")
	equal(t, "a limit", p.exec(t, "a", "cat /info/cpu"), "300")
	equal(t, "the environment", p.exec(t, "a", "echo $POD $IP"), p.fullName()+" "+s.PodIP)
}

func TestMountPropagation(t *testing.T) {
	n := theNode(t)
	dir, err := n.lab.Mkdir("propagation")
	ok(t, err)
	p := n.pod(t, `
volumes: [{name: v, hostPath: {path: `+dir+`}}]
containers:
- {name: source, image: IMAGE, securityContext: {privileged: true}, volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]}
- {name: sees, image: IMAGE, volumeMounts: [{name: v, mountPath: /v, mountPropagation: HostToContainer}]}
- {name: private, image: IMAGE, volumeMounts: [{name: v, mountPath: /v}]}
`)
	p.ready(t)
	p.exec(t, "source", "mkdir -p /v/m && mount -t tmpfs tmpfs /v/m && touch /v/m/mounted")
	equal(t, "the node", words2(os.ReadDir(dir+"/m")), "mounted")
	equal(t, "HostToContainer", p.exec(t, "sees", "ls /v/m"), "mounted")
	equal(t, "None", p.exec(t, "private", "ls /v/m"), "")
	p.exec(t, "source", "umount /v/m")
}

func TestAnImageIsAVolume(t *testing.T) {
	ref := push(t, "data", "1.2.3")
	p := theNode(t).pod(t, `
volumes: [{name: data, image: {reference: `+ref+`}}]
containers: [{name: a, image: IMAGE, volumeMounts: [{name: data, mountPath: /data}, {name: data, mountPath: /bin-of-it, subPath: bin}]}]
`)
	p.ready(t)
	equal(t, "a file of the image", p.exec(t, "a", "cat /data/version"), "1.2.3")
	equal(t, "a sub-path of it", p.exec(t, "a", "ls /bin-of-it/busybox"), "/bin-of-it/busybox")
	equal(t, "writing to it", p.exec(t, "a", "touch /data/x 2>/dev/null || echo refused"), "refused")
}

func words2(entries []os.DirEntry, err error) string {
	out := ""
	for _, e := range entries {
		out += e.Name()
	}
	if err != nil {
		return err.Error()
	}
	return out
}

package e2e

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/e2e/harness"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Everything that the daemon and the monitor have written down and read at their
// start is harmed in the same way, but what belongs to one pod. The daemon must
// start all the same, that pod must not notice, and new pods can be made; what
// was harmed goes, with its pod.
func TestNothingThatIsWrittenDownStopsTheDaemonWhenItIsHarmed(t *testing.T) {
	all := map[string]func(path string, content []byte) error{
		"torn":   func(path string, c []byte) error { return os.WriteFile(path, c[:len(c)/2], 0o600) },
		"empty":  func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o600) },
		"zeroes": func(path string, c []byte) error { return os.WriteFile(path, make([]byte, len(c)), 0o600) },
		"foreign": func(path string, _ []byte) error {
			return os.WriteFile(path, []byte(`{"version":"hello","pod":7}`), 0o600)
		},
		"a list": func(path string, _ []byte) error { return os.WriteFile(path, []byte("[null,{}]"), 0o600) },
		"newer": func(path string, c []byte) error {
			return os.WriteFile(path, bytes.ReplaceAll(c, []byte(`"version":1`), []byte(`"version":99`)), 0o600)
		},
		"other bytes": func(path string, c []byte) error { return os.WriteFile(path, bytes.ToUpper(c), 0o600) },
		"a directory": func(path string, _ []byte) error { return os.MkdirAll(filepath.Join(path, "x"), 0o700) },
		"a link":      func(path string, _ []byte) error { return os.Symlink("/dev/zero", path) },
		"a pipe":      func(path string, _ []byte) error { return unix.Mkfifo(path, 0o600) },
		"100 MB big": func(path string, _ []byte) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 100<<20))
		},
	}
	only := os.Getenv("TROUPE_HARM") // one way, for who looks for the reason of a failure
	n := ownNode(t, sweeping("1s"))
	ref, _ := n.artifact(t, "harmed")
	healthy := n.pod(t).start(t, "exec sleep 100000")
	pid := healthy.pid(t)
	for what, harm := range all {
		if only != "" && only != what {
			continue
		}
		n.run(t, "pull", ref)
		p := &pod{node: n, config: n.podConfig(t, func(c *runtime.PodSandboxConfig) {
			c.PortMappings = []*runtime.PortMapping{{Protocol: runtime.Protocol_TCP, ContainerPort: 80, HostPort: 18383}}
		})}
		p.file = n.file(t, p.config)
		p.id = n.run(t, "runp", p.file)
		p.start(t, "exec sleep 100000")
		p.start(t, "exit 3").exited(t)
		ok(t, os.WriteFile(filepath.Join(n.daemon.Root, "cni", "attempts", p.id), []byte("{}"), 0o600))
		n.tellRanges(t)
		ok(t, n.daemon.Kill())
		// The monitor reads its own at its start; the keeper would start it beside the harm.
		ok(t, n.daemon.KillMonitorAndKeeper())
		files := n.writtenDown(t, healthy)
		for _, path := range files {
			content := must(os.ReadFile(path))(t)
			ok(t, os.Remove(path))
			ok(t, harm(path, content))
		}
		if err := n.daemon.Start(t.Context()); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		t.Logf("%s: %d files: %s", what, len(files), kindsOf(n.daemon, files))
		equal(t, what+": the healthy pod's process", healthy.pid(t), pid)
		equal(t, what+": exec in it", healthy.exec(t, "echo works"), "works")
		n.remove(t, p.id) // however much of it is known
		n.swept(t)
		n.tellRanges(t) // a pod made without them would have an address of somebody else's
		fresh := &pod{node: n, config: n.podConfig(t)}
		fresh.file = n.file(t, fresh.config)
		fresh.id = n.run(t, "runp", fresh.file)
		equal(t, what+": what a new pod says", fresh.output(t, "echo works"), "works")
		n.remove(t, fresh.id)
		equal(t, what+": the healthy pod's state", healthy.status(t).State, runtime.ContainerState_CONTAINER_RUNNING)
		if t.Failed() {
			t.Fatalf("%s:\n%s", what, n.daemon.Tail(40))
		}
	}
}

// tellRanges is what a kubelet does when it starts.
func (n *node) tellRanges(t *testing.T) {
	t.Helper()
	_, err := n.cri.Runtime.UpdateRuntimeConfig(t.Context(), &runtime.UpdateRuntimeConfigRequest{
		RuntimeConfig: &runtime.RuntimeConfig{NetworkConfig: &runtime.NetworkConfig{PodCidr: "10.123.0.0/16"}},
	})
	ok(t, err)
}

// writtenDown are the files of Troupe's own on the node, but those of a pod.
func (n *node) writtenDown(t *testing.T, but *container) (files []string) {
	t.Helper()
	for _, dir := range []string{n.daemon.Root, filepath.Join(n.daemon.Run, "monitor"), filepath.Join(n.lab.Dir, "node", "images")} {
		ok(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name := e.Name()
			switch {
			case strings.Contains(path, but.pod.id) || strings.Contains(path, but.id):
			case e.IsDir() && (name == "rootfs" || name == "upper" || name == "work" || name == "overlay" || name == "quarantine" || name == "damaged" || name == "files" || name == "pause-root"):
				return fs.SkipDir // containers' and images' content
			case strings.Contains(path, "/images/") && !strings.Contains(path, "troupe-"):
				// the storage library's own
			case !e.Type().IsRegular() || strings.HasSuffix(name, ".lock") || name == "monitor.log":
			default:
				files = append(files, path)
			}
			return nil
		}))
	}
	return files
}

// kindsOf counts the files by the place they have.
func kindsOf(d *harness.Daemon, files []string) string {
	count := map[string]int{}
	for _, path := range files {
		for _, dir := range []string{d.Root, d.Run} {
			path = strings.TrimPrefix(path, dir)
		}
		var parts []string
		for part := range strings.SplitSeq(path, "/") {
			if len(part) >= 32 {
				part = "*"
			}
			parts = append(parts, part)
		}
		count[strings.Join(parts, "/")]++
	}
	var all []string
	for kind, n := range count {
		all = append(all, kind+" "+strconv.Itoa(n))
	}
	return strings.Join(all, ", ")
}

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// leftover is a line of `troupe check -o json`.
type leftover struct {
	Kind, Name, PodSandboxID, ContainerID, Action, Error string
	Since, Due                                           time.Time
}

// leftovers asks the daemon what the node holds without an owner.
func (n *node) leftovers(t *testing.T) (found []leftover) {
	t.Helper()
	cmd := n.daemon.Command("check", "--only", "leftovers", "-o", "json")
	text, err := cmd.Output()
	var answer struct{ Leftovers []leftover }
	if jsonErr := json.Unmarshal(text, &answer); jsonErr != nil {
		t.Fatalf("troupe check: %v (%v): %s", jsonErr, err, text)
	}
	if (err != nil) != (len(answer.Leftovers) > 0) {
		t.Errorf("troupe check found %d leftovers and ended with: %v", len(answer.Leftovers), err)
	}
	return answer.Leftovers
}

// swept waits until nothing is left without an owner.
func (n *node) swept(t *testing.T) {
	t.Helper()
	var found []leftover
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if found = n.leftovers(t); len(found) == 0 {
			return
		}
	}
	t.Fatalf("not removed: %+v", found)
}

func sweeping(grace string) func(*harness.DaemonOptions) {
	return func(o *harness.DaemonOptions) { o.Extra = fmt.Sprintf("sweep_grace = %q\n", grace) }
}

// sleeps starts a process that only this test ends.
func sleeps(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "100000")
	ok(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// A pod whose records are gone (the disk, an operator) is found by all that it
// has on the node, and all of it goes; its neighbours live on.
func TestWhatAPodWithoutRecordsHoldsIsShownAndRemoved(t *testing.T) {
	n := ownNode(t, sweeping("3s"))
	n.leavesNothing(t)
	neighbour := n.pod(t).start(t, "exec sleep 100000")
	pid := neighbour.pid(t)

	config := n.podConfig(t, func(c *runtime.PodSandboxConfig) {
		c.PortMappings = []*runtime.PortMapping{{Protocol: runtime.Protocol_TCP, ContainerPort: 80, HostPort: 18282}}
	})
	lost := &pod{node: n, config: config, file: n.file(t, config)}
	lost.id = n.run(t, "runp", lost.file)
	c := lost.start(t, "exec sleep 100000", func(c *runtime.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtime.Mount{Image: &runtime.ImageSpec{Image: n.image}, ContainerPath: "/image", Readonly: true})
	})
	ended := c.pid(t)
	ok(t, n.daemon.Kill())
	for _, record := range []string{
		filepath.Join(n.daemon.Root, "pods", lost.id, "record"),
		filepath.Join(n.daemon.Root, "pods", lost.id, "containers", c.id, "record"),
	} {
		ok(t, os.Remove(record))
	}
	ok(t, n.daemon.Start(t.Context()))

	kinds := map[string]bool{}
	for _, l := range n.leftovers(t) {
		kinds[l.Kind] = true
		if l.PodSandboxID != lost.id || l.Name == "" || l.Action == "" || l.Since.IsZero() || !l.Due.Equal(l.Since.Add(3*time.Second)) {
			t.Errorf("a leftover that says too little, or is no leftover: %+v", l)
		}
	}
	for _, kind := range []string{"process", "bundle", "volumes", "mount", "directory", "network", "hostport", "files", "netns", "ipcns", "utsns", "cgroup"} {
		if !kinds[kind] {
			t.Errorf("no leftover of kind %s is shown: %v", kind, kinds)
		}
	}
	n.swept(t)
	if _, err := os.Stat("/proc/" + strconv.Itoa(ended)); err == nil {
		t.Error("the process still runs")
	}
	equal(t, "the neighbour's pid", neighbour.pid(t), pid)
	equal(t, "exec in the neighbour", neighbour.exec(t, "echo works"), "works")
}

// What only damage can leave, of each kind, planted by hand; and beside each
// what looks like it and is somebody else's.
func TestLeftoversOfEachKindGoAndStrangersStay(t *testing.T) {
	n := ownNode(t, sweeping("3s"))
	n.leavesNothing(t)
	other := n.neighbour(t)
	theirs := other.pod(t).start(t, "exec sleep 100000")
	pod, container := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	root, run := n.daemon.Root, n.daemon.Run
	hierarchy := cgroupMount(t)
	mkdir := func(elem ...string) string {
		dir := filepath.Join(elem...)
		ok(t, os.MkdirAll(dir, 0o755))
		return dir
	}
	write := func(elem ...string) string {
		mkdir(filepath.Dir(filepath.Join(elem...)))
		ok(t, os.WriteFile(filepath.Join(elem...), []byte("{"), 0o600))
		return filepath.Join(elem...)
	}
	tmpfs := func(elem ...string) string {
		dir := mkdir(elem...)
		ok(t, unix.Mount("planted", dir, "tmpfs", 0, "size=64k"))
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		return dir
	}
	pin := func(kind string, elem ...string) string {
		file := write(elem...)
		ok(t, unix.Mount("/proc/self/ns/"+kind, file, "", unix.MS_BIND, ""))
		t.Cleanup(func() { _ = unix.Unmount(file, unix.MNT_DETACH) })
		return file
	}
	// A container's cgroup, in the kubelet's, with a process of which the monitor
	// knows nothing.
	kubepods := mkdir(hierarchy, n.lab.Name, "kubepods", "pod7")
	inCgroup := func(dir string) *exec.Cmd {
		cmd := sleeps(t)
		ok(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0))
		return cmd
	}
	stray := mkdir(kubepods, "troupe-"+container)
	ok(t, unix.Setxattr(stray, "trusted.troupe", []byte(pod+" "+container+" "+filepath.Join(run, "monitor")), 0))
	killed := inCgroup(stray)

	leftovers := map[string]string{
		"process":            stray,
		"cgroup":             mkdir(hierarchy, n.lab.Name, "pod-"+pod),
		"mount":              tmpfs(root, "pods", pod, "containers", container, "rootfs"),
		"mount ":             tmpfs(root, "pods", pod, "nobody knows what"),
		"mount  ":            tmpfs(run, "shm", pod),
		"volumes":            filepath.Dir(tmpfs(root, "pods", pod, "containers", container, "volumes", "image-0")),
		"bundle":             write(root, "pods", pod, "containers", container, "config.json"),
		"files":              filepath.Dir(write(root, "pods", pod, "files", "hostname")),
		"directory":          mkdir(root, "pods", strings.Repeat("ef", 32)),
		"directory ":         filepath.Dir(filepath.Dir(write(root, "pods", strings.Repeat("12", 32), "junk", "file"))),
		"netns":              pin("net", run, "ns", "net", pod),
		"ipcns":              pin("ipc", run, "ns", "ipc", pod),
		"utsns":              write(run, "ns", "uts", pod), // the mount is gone
		"network":            filepath.Dir(filepath.Dir(write(root, "cni", "pods", pod, "results", n.lab.Name+"-"+pod+"-eth0"))),
		"network ":           write(root, "cni", "attempts", pod),
		"hostport":           write(root, "cni", "ports", pod),
		"checkpoint":         mkdir(root, "checkpoints", "restore-"+pod+"-"+container),
		"record":             write(root, "pods", strings.Repeat("34", 32), "containers", strings.Repeat("56", 32), "record"),
		"quarantined record": write(root, "quarantine", fmt.Sprintf("%s-%d", pod, time.Now().AddDate(0, -2, 0).UnixNano())),
	}
	strangers := []string{
		mkdir(kubepods, "troupe-"+strings.Repeat("78", 32)),          // not marked: nobody's
		mkdir(hierarchy, n.lab.Name, "pod-of-somebody-else", "x"),    // no id of ours
		mkdir(hierarchy, n.lab.Name, "kubepods", "pod8"),             // the kubelet's
		tmpfs(n.lab.Dir, "node", "images", "overlay", pod, "merged"), // podman's, on the same storage
		tmpfs(root, "pods", "backup of the operator"),
		write(root, "pods", "notes.txt"),
		write(root, "quarantine", fmt.Sprintf("%s-%d", pod, time.Now().UnixNano())), // for people, for a month
		write(root, "cni", "pods", "another-pod_1", "results", "net-another-pod_1-eth0"),
		pin("net", n.lab.Dir, "netns", "of-docker"),
		write(run, "ns", "net", "-not-an-id"),
	}
	lives := inCgroup(strangers[0])

	seen := map[string]leftover{}
	for _, l := range n.leftovers(t) {
		seen[l.Kind+" "+l.Name] = l
	}
	for kind, name := range leftovers {
		kind = strings.TrimSpace(kind)
		shown := name
		if kind == "process" { // by its name in every hierarchy
			shown = strings.TrimPrefix(name, hierarchy)
		}
		if kind == "bundle" || kind == "volumes" || kind == "files" {
			shown = name
		}
		found := false
		for key, l := range seen {
			found = found || l.Kind == kind && strings.Contains(key, shown)
		}
		if kind == "record" { // torn: it was put aside when the daemon read it, or is held
			continue
		}
		if !found {
			t.Errorf("%s %s is not shown", kind, shown)
		}
	}
	for key := range seen {
		for _, stranger := range strangers {
			if strings.HasSuffix(key, stranger) || strings.HasSuffix(key, " "+strings.TrimPrefix(stranger, hierarchy)) {
				t.Errorf("somebody else's is shown: %s", key)
			}
		}
	}
	table, _ := n.daemon.Command("check", "--only", "leftovers").CombinedOutput()
	contains(t, "the table", string(table), "WHAT WILL BE DONE", "detach the pod (CNI DEL)", "have no owner")
	n.swept(t)
	for kind, name := range leftovers {
		if _, err := os.Lstat(name); err == nil {
			t.Errorf("%s %s is still there", kind, name)
		}
	}
	for _, name := range strangers {
		if _, err := os.Lstat(name); err != nil {
			t.Errorf("somebody else's was touched: %v", err)
		}
	}
	eventually(t, "the process in our cgroup ends", func() bool { return zombie(killed.Process.Pid) })
	if zombie(lives.Process.Pid) {
		t.Error("somebody else's process was killed")
	}
	equal(t, "exec at the neighbour's", theirs.exec(t, "echo works"), "works")
	ok(t, lives.Process.Kill())
	for _, name := range append(strangers[:3:3], filepath.Dir(strangers[1])) {
		eventually(t, "the cgroup can go", func() bool { err := os.Remove(name); return err == nil || os.IsNotExist(err) })
	}
	for _, name := range strangers[3:] {
		_ = unix.Unmount(name, unix.MNT_DETACH)
		ok(t, os.RemoveAll(name))
	}
	ok(t, os.Remove(kubepods))
	ok(t, os.Remove(filepath.Dir(kubepods)))
	ok(t, os.Remove(filepath.Join(hierarchy, n.lab.Name)))
}

// zombie says whether a child of ours has ended.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// cgroupMount is a hierarchy that containers are in.
func cgroupMount(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			return dir
		}
	}
	t.Fatal("no cgroup hierarchy")
	return ""
}

// neighbour is another daemon on the same node, with directories, network and
// cgroups of its own.
func (n *node) neighbour(t *testing.T) *node {
	t.Helper()
	m := *n
	m.daemon = must(n.lab.NewDaemon(harness.DaemonOptions{
		Name: "neighbour", Network: n.daemon.Network, Storage: n.lab.Path("node", "images"), Extra: "sweep_grace = \"1s\"\n",
	}))(t)
	config := string(must(os.ReadFile(m.daemon.Config))(t))
	config = strings.Replace(config, `cgroup_parent = "/`+n.lab.Name+`"`, `cgroup_parent = "/`+n.lab.Name+`-neighbour"`, 1)
	ok(t, os.WriteFile(m.daemon.Config, []byte(config), 0o600))
	ok(t, m.daemon.Start(t.Context()))
	t.Cleanup(func() { ok(t, m.daemon.Stop()); ok(t, m.daemon.StopMonitor()) })
	m.crictl = must(n.lab.NewCrictl(m.daemon.Socket))(t)
	m.cri = must(harness.Dial(m.daemon.Socket))(t)
	t.Cleanup(m.cri.Close)
	return &m
}

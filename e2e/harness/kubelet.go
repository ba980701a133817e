package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Kubelet is a real kubelet with directories, port and cgroup of its own. It
// runs static pods, and those of an API server when it was given one.
type Kubelet struct {
	Node      string // name of the node; a static pod is called <name>-<node>
	Port      string // of its HTTPS API, on loopback; anybody may do anything
	Root      string // --root-dir
	Manifests string // directory of static pods
	PodLogs   string
	LogFile   string
	Cgroup    string // cgroupRoot: its pods are below <Cgroup>/kubepods

	config map[string]any
	flags  []string
	lab    *Lab
	cmd    *exec.Cmd
	bin    string
	file   string
}

// KubeletOptions are what may differ from the usual private kubelet.
type KubeletOptions struct {
	Root       string         // on a disk that cAdvisor finds
	Socket     string         // of the runtime
	NodeIP     string         // an address of the machine that is not loopback
	Kubeconfig string         // of the API server; empty: standalone
	Config     map[string]any // fields of KubeletConfiguration to set or change
}

// NewKubelet writes the configuration of a private kubelet; Start starts it.
func (l *Lab) NewKubelet(o KubeletOptions) (*Kubelet, error) {
	bin, err := Tool("kubelet")
	if err != nil {
		return nil, fmt.Errorf("%w ('make kubelet' builds it)", err)
	}
	address, err := freePort()
	if err != nil {
		return nil, err
	}
	k := &Kubelet{
		Node: "node-" + l.Name, Port: address[strings.LastIndex(address, ":")+1:],
		Root: o.Root, Manifests: l.Path("kubelet", "manifests"), PodLogs: filepath.Join(o.Root, "pod-logs"),
		LogFile: l.Path("kubelet", "kubelet.log"), Cgroup: "/" + l.Name, lab: l, bin: bin, file: l.Path("kubelet", "config.json"),
	}
	resolv, err := l.Write("nameserver 192.0.2.53\nsearch lab.example\n", "kubelet", "resolv.conf")
	if err != nil {
		return nil, err
	}
	k.config = k.defaults(o.Socket, resolv)
	maps.Copy(k.config, o.Config)
	k.flags = []string{
		"--config=" + k.file, "--root-dir=" + k.Root, "--cert-dir=" + l.Path("kubelet", "pki"),
		"--hostname-override=" + k.Node, "--node-ip=" + o.NodeIP, "--v=2",
	}
	if o.Kubeconfig != "" {
		k.flags = append(k.flags, "--kubeconfig="+o.Kubeconfig)
	}
	l.OnClose(k.end)
	return k, errors.Join(os.MkdirAll(k.Manifests, 0o755), os.MkdirAll(k.Root, 0o755), k.makeCgroup())
}

// defaults is a configuration for tests: quick to look, slow to judge, and
// changing nothing of the machine. What is not named is as on any node.
func (k *Kubelet) defaults(socket, resolv string) map[string]any {
	return map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + socket,
		"staticPodPath":            k.Manifests, "podLogsDir": k.PodLogs, "volumePluginDir": k.lab.Path("kubelet", "plugins"),
		"address": "127.0.0.1", "port": json.Number(k.Port), "healthzPort": 0,
		"authentication": map[string]any{"anonymous": map[string]any{"enabled": true}, "webhook": map[string]any{"enabled": false}},
		"authorization":  map[string]any{"mode": "AlwaysAllow"},
		"failCgroupV1":   false, "failSwapOn": false, "cgroupRoot": k.Cgroup,
		"oomScoreAdj":            0, // lowering it may not be allowed where the lab runs
		"makeIPTablesUtilChains": false, "resolvConf": resolv,
		"syncFrequency": "1s", "fileCheckFrequency": "300ms", "nodeStatusUpdateFrequency": "2s",
		"volumeStatsAggPeriod": "5s", "imageMinimumGCAge": "1s", "serializeImagePulls": false, "registryPullQPS": 0,
		"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
		"evictionHard":     map[string]any{"memory.available": "10Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.inodesFree": "1%"},
		"crashLoopBackOff": map[string]any{"maxContainerRestartPeriod": "2s"},
		"featureGates":     map[string]any{},
	}
}

// makeCgroup makes cgroupRoot, which must exist in every hierarchy.
func (k *Kubelet) makeCgroup() error {
	hierarchies, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil || len(hierarchies) == 0 { // cgroup v2: one hierarchy
		return errors.Join(err, os.MkdirAll("/sys/fs/cgroup"+k.Cgroup, 0o755))
	}
	for _, procs := range hierarchies {
		dir := filepath.Join(filepath.Dir(procs), k.Cgroup)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} { // a fresh cpuset allows nothing
			all, err := os.ReadFile(filepath.Join(filepath.Dir(procs), f))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err := errors.Join(err, os.WriteFile(filepath.Join(dir, f), all, 0)); err != nil {
				return fmt.Errorf("setting up %s: %w", dir, err)
			}
		}
	}
	return nil
}

// Set changes a field of the configuration for the next Start.
func (k *Kubelet) Set(field string, value any) { k.config[field] = value }

// Start starts the kubelet and waits until its API answers.
func (k *Kubelet) Start(ctx context.Context) error {
	config, err := json.MarshalIndent(k.config, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(k.file, config, 0o644); err != nil {
		return err
	}
	out, err := os.OpenFile(k.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	if k.cmd, err = k.shielded(); err != nil {
		return err
	}
	k.cmd.Stdout, k.cmd.Stderr = out, out
	if err := k.cmd.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		_, err := k.Get(ctx, "/healthz")
		if err == nil {
			return nil
		}
		if !alive(k.cmd.Process.Pid) {
			return fmt.Errorf("the kubelet ended while starting; the last of its log:\n%s", k.Tail(15))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the kubelet does not answer: %w; the last of its log:\n%s", err, k.Tail(15))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Kill is SIGKILL.
func (k *Kubelet) Kill() error {
	if err := k.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = k.cmd.Wait() // "signal: killed" is what was asked for
	return nil
}

// Stop is SIGTERM and waits; the pods live on.
func (k *Kubelet) Stop() error {
	if k.cmd == nil || k.cmd.ProcessState != nil {
		return nil
	}
	return end(k.cmd)
}

func (k *Kubelet) end() error {
	return errors.Join(k.Stop(), unmountBelow(filepath.Join(k.Root, "pods")))
}

// Tail is the end of the kubelet's log.
func (k *Kubelet) Tail(lines int) string {
	text, _ := os.ReadFile(k.LogFile)
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Grep is all lines of the kubelet's log that hold the text.
func (k *Kubelet) Grep(text string) string {
	log, _ := os.ReadFile(k.LogFile)
	var b strings.Builder
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, text) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// kubeletSysctls are those that every kubelet sets for the whole machine
// (k8s.io/kubernetes pkg/kubelet/cm, setupKernelTunables).
var kubeletSysctls = map[string]string{
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// ShieldLogs hides /var/log, below which every kubelet links its pods' logs.
func (l *Lab) ShieldLogs() error {
	if err := unix.Mount("tmpfs", "/var/log", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("shielding /var/log: %w", err)
	}
	l.OnClose(func() error { return unix.Unmount("/var/log", unix.MNT_DETACH) })
	return nil
}

// shielded is a kubelet that cannot set the machine's sysctls: for it alone,
// plain files lie over them. Elsewhere in the lab they must not, since the
// kernel mounts no /proc in a user namespace where part of the outer one is
// hidden. All other mounts of the kubelet reach the lab.
func (k *Kubelet) shielded() (*exec.Cmd, error) {
	script := "mount --make-rprivate /proc\n"
	for name, value := range kubeletSysctls {
		decoy, err := k.lab.Write(value+"\n", "kubelet", "sysctls", name)
		if err != nil {
			return nil, err
		}
		script += fmt.Sprintf("mount --bind %s /proc/sys/%s\n", decoy, name)
	}
	args := []string{"--mount", "--propagation", "unchanged", "sh", "-ec", script + `exec "$@"`, "sh", k.bin}
	return exec.Command("unshare", append(args, k.flags...)...), nil
}

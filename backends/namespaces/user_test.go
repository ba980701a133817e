package namespaces_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/messages"
)

func userRequest(t *testing.T) backends.NamespaceRequest {
	return backends.NamespaceRequest{
		Pod: conformance.ID(t), Network: true, IPC: true, UTS: true, Hostname: "inside",
		User: &messages.UserNamespace{UIDs: messages.IDRange{Host: 165536, Length: 65536}, GIDs: messages.IDRange{Host: 265536, Length: 65536}},
	}
}

// asRoot runs a command as the root of the pinned user namespace.
func asRoot(t *testing.T, n messages.Namespaces, command string) string {
	t.Helper()
	out, err := exec.Command("nsenter", "--user="+n.User, "--net="+n.Network, "--ipc="+n.IPC, "--uts="+n.UTS,
		"--setuid=0", "--setgid=0", "sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", command, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestTheUserNamespaceMapsAsAskedAndOwnsTheOthers(t *testing.T) {
	b, _ := backend(t)
	n, err := b.Pin(t.Context(), userRequest(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ command, want string }{ // in this order: one changes the hostname
		{"cat /proc/self/uid_map", "0 165536 65536"},
		{"cat /proc/self/gid_map", "0 265536 65536"},
		{"ip link set lo up", ""},
		{"hostname", "inside"},
		{"hostname changed && hostname", "changed"},
		{"unshare -m mount -t sysfs none /sys", ""},  // needs the network namespace to be its own
		{"unshare -m mount -t mqueue none /mnt", ""}, // and the IPC namespace
		{"echo 7 >/proc/sys/kernel/msgmni; echo", ""},
	} {
		if got := strings.Join(strings.Fields(asRoot(t, n, c.command)), " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.command, got, c.want)
		}
	}
}

func TestSysctlsAreSetInNamespacesThatAUserNamespaceOwns(t *testing.T) {
	b, _ := backend(t)
	r := userRequest(t)
	r.Sysctls = map[string]string{
		"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shmmax": "123456", "fs.mqueue.msg_max": "77", "kernel.shm_rmid_forced": "1",
		"kernel.sem": "251 32001 101 129",
	}
	n, err := b.Pin(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range r.Sysctls {
		got := asRoot(t, n, "cat /proc/sys/"+strings.ReplaceAll(name, ".", "/"))
		if strings.ReplaceAll(got, "\t", " ") != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestNoProcessIsLeftOfMakingAUserNamespace(t *testing.T) {
	b, dir := backend(t)
	r := userRequest(t)
	n, err := b.Pin(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	out, _ := exec.Command("pgrep", "-f", "^troupe-never-run").CombinedOutput()
	if len(out) > 0 {
		t.Errorf("left: %s", out)
	}
	again, err := b.Pin(t.Context(), r)
	if err != nil || again != n {
		t.Errorf("again: %+v, %v; want %+v", again, err, n)
	}
	if err := b.Unpin(t.Context(), r.Pod); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(read(t, "/proc/self/mountinfo"), dir) {
		t.Error("a mount was left behind")
	}
}

func TestAMappingTheKernelWouldRefuseIsInvalid(t *testing.T) {
	b, _ := backend(t)
	for _, m := range []messages.IDRange{{}, {Host: 1}, {Host: 1 << 31, Length: 1 << 31}} {
		r := userRequest(t)
		r.User.GIDs = m
		if _, err := b.Pin(t.Context(), r); err == nil || messages.KindOf(err) != messages.Invalid {
			t.Errorf("%+v: %v", m, err)
		}
		if held, _ := b.Held(t.Context()); len(held) > 0 {
			t.Errorf("%+v left %v", m, fmt.Sprint(held))
		}
	}
}

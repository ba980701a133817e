package bundles

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCommandAndArgsReplaceTheImagesByDockersRules(t *testing.T) {
	b := newTest(t, testNode(t))
	for _, c := range []struct {
		command, args, entrypoint, cmd []string
		want                           string
	}{
		{entrypoint: []string{"ep"}, cmd: []string{"cmd"}, want: "ep cmd"},
		{cmd: []string{"cmd"}, want: "cmd"},
		{args: []string{"a"}, entrypoint: []string{"ep"}, cmd: []string{"cmd"}, want: "ep a"},
		{command: []string{"c"}, entrypoint: []string{"ep"}, cmd: []string{"cmd"}, want: "c"},
		{command: []string{"c"}, args: []string{"a"}, entrypoint: []string{"ep"}, want: "c a"},
	} {
		r := request(t)
		r.Config.Command, r.Config.Args, r.Image.Entrypoint, r.Image.Cmd = c.command, c.args, c.entrypoint, c.cmd
		spec, _ := written(t, b, r)
		if got := strings.Join(spec.Process.Args, " "); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestTheLaterVariableWinsInTheEarlierPlace(t *testing.T) {
	b := newTest(t, testNode(t), func(c *Config) { c.DefaultEnv = []string{"A=default", "B=default"} })
	r := request(t)
	r.Image.Env = []string{"B=image", "C=image", "D"}
	r.Config.Envs = []*runtime.KeyValue{{Key: "C", Value: []byte("own\nlines")}, {Key: "E"}, {Key: "PATH", Value: []byte("/bin")}}
	r.Config.Tty = true
	spec, _ := written(t, b, r)
	equal(t, "env", spec.Process.Env, []string{"PATH=/bin", "HOSTNAME=web-host", "TERM=xterm", "A=default", "B=image", "C=own\nlines", "D=", "E="})
	if !spec.Process.Terminal {
		t.Error("no terminal")
	}
	r.Namespaces.UTS = ""
	spec, _ = written(t, b, r)
	equal(t, "host name", spec.Process.Env[1], "HOSTNAME=the-node")
	r.Image.Env = []string{"X=a\x00b"}
	r.Pod, r.Container = r.Container, r.Pod
	wantError(t, b, r, messages.Invalid, "environment")
}

func TestTheWorkingDirectoryIsMadeInsideTheRoot(t *testing.T) {
	b := newTest(t, testNode(t))
	r := request(t)
	out := t.TempDir()
	if err := os.Symlink(out, filepath.Join(r.Rootfs, "escape")); err != nil {
		t.Fatal(err)
	}
	r.Image.WorkingDir = "/image"
	r.Image.Volumes = []string{"/var/data", "relative/volume"}
	spec, _ := written(t, b, r)
	equal(t, "cwd", spec.Process.Cwd, "/image")
	for _, dir := range []string{"image", "var/data", "relative/volume"} {
		if _, err := os.Stat(filepath.Join(r.Rootfs, dir)); err != nil {
			t.Error(err)
		}
	}
	r.Config.WorkingDir = "/escape/../escape/dir"
	_, err := b.Write(t.Context(), r)
	if _, there := os.Stat(filepath.Join(out, "dir")); there == nil {
		t.Error("made outside of the root")
	}
	if _, there := os.Stat(filepath.Join(r.Rootfs, out, "dir")); err != nil || there != nil {
		t.Errorf("a link that leads nowhere in the root: %v, %v", err, there)
	}
	r.Config.WorkingDir = "/etc/passwd"
	if _, err := b.Write(t.Context(), r); messages.KindOf(err) != messages.Invalid {
		t.Errorf("a file as working directory: %v", err)
	}
}

func TestUsersAreResolvedInTheImage(t *testing.T) {
	id := func(n int64) *runtime.Int64Value { return &runtime.Int64Value{Value: n} }
	type security = runtime.LinuxContainerSecurityContext
	b := newTest(t, testNode(t))
	for name, c := range map[string]struct {
		sc    *security
		image string
		want  []int64 // uid, gid, groups…
	}{
		"nothing said":           {&security{}, "", []int64{0, 0, 0, 10}},
		"image name":             {&security{}, "app", []int64{1000, 1001, 1001, 10, 44}},
		"image name and group":   {&security{}, "app:video", []int64{1000, 44, 44, 10}},
		"image numbers":          {&security{}, "5:6", []int64{5, 6, 6}},
		"uid in passwd":          {&security{RunAsUser: id(1000)}, "root", []int64{1000, 1001, 1001, 10, 44}},
		"uid not in passwd":      {&security{RunAsUser: id(4000)}, "app:app", []int64{4000, 0, 0}},
		"uid and gid":            {&security{RunAsUser: id(1000), RunAsGroup: id(7)}, "", []int64{1000, 7, 7, 10, 44}},
		"name":                   {&security{RunAsUsername: "app"}, "", []int64{1000, 1001, 1001, 10, 44}},
		"a name of digits":       {&security{RunAsUsername: "1234"}, "", []int64{77, 77, 77}},
		"supplemental":           {&security{RunAsUser: id(1000), SupplementalGroups: []int64{2000, 44}}, "", []int64{1000, 1001, 1001, 10, 44, 2000}},
		"strict":                 {&security{RunAsUser: id(1000), SupplementalGroups: []int64{2000}, SupplementalGroupsPolicy: 1}, "", []int64{1000, 1001, 1001, 2000}},
		"strict without any":     {&security{RunAsUsername: "app", SupplementalGroupsPolicy: 1}, "", []int64{1000, 1001, 1001}},
		"group of digits is gid": {&security{}, "app:10", []int64{1000, 10, 10, 44}},
	} {
		r := request(t)
		r.Config.Linux.SecurityContext, r.Image.User = c.sc, c.image
		spec, out := written(t, b, r)
		u := spec.Process.User
		got := []int64{int64(u.UID), int64(u.GID)}
		for _, g := range u.AdditionalGids {
			got = append(got, int64(g))
		}
		equal(t, name, got, c.want)
		told := out.User.GetLinux()
		equal(t, name+" (told)", append([]int64{told.Uid, told.Gid}, told.SupplementalGroups...), c.want)
	}
	for word, c := range map[string]struct {
		sc    *security
		image string
	}{
		"ghost":        {&security{}, "ghost"},
		"nogroup":      {&security{}, "app:nogroup"},
		"99":           {&security{RunAsUsername: "99"}, ""},
		"run_as_group": {&security{RunAsGroup: id(1)}, "app"},
		"-1":           {&security{RunAsUser: id(-1)}, ""},
	} {
		r := request(t)
		r.Config.Linux.SecurityContext, r.Image.User = c.sc, c.image
		wantError(t, b, r, messages.Invalid, word)
	}
}

func TestAPasswdThatIsALinkOutOfTheImageGivesNothingOfTheHost(t *testing.T) {
	host := filepath.Join(t.TempDir(), "passwd")
	put(t, host, "secret:x:4242:4242::/:\n")
	b := newTest(t, testNode(t))
	for name, target := range map[string]string{
		"absolute": host, "climbing": "../../../../../../../../.." + host, "through proc": "/proc/self/root" + host,
	} {
		r := request(t)
		link := filepath.Join(r.Rootfs, "etc/passwd")
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		sc(&r).RunAsUsername = "secret"
		t.Log(name)
		wantError(t, b, r, messages.Invalid, `"secret"`, "not in the image's /etc/passwd")
	}
}

func TestALinkInsideTheImageIsFollowed(t *testing.T) {
	b := newTest(t, testNode(t))
	r := request(t)
	put(t, filepath.Join(r.Rootfs, "usr/etc/passwd"), "inner:x:55:56::/:\n")
	link := filepath.Join(r.Rootfs, "etc/passwd")
	_ = os.Remove(link)
	if err := os.Symlink("/usr/etc/passwd", link); err != nil {
		t.Fatal(err)
	}
	sc(&r).RunAsUsername = "inner"
	if spec, _ := written(t, b, r); spec.Process.User.UID != 55 {
		t.Errorf("%+v", spec.Process.User)
	}
}

func TestAPasswdThatIsNoFileIsRefusedAtOnce(t *testing.T) {
	b := newTest(t, testNode(t))
	for name, make := range map[string]func(string) error{
		"a fifo":      func(p string) error { return unix.Mkfifo(p, 0o600) },
		"a directory": func(p string) error { return os.Mkdir(p, 0o700) },
		"too large":   func(p string) error { return os.WriteFile(p, slices.Repeat([]byte("x\n"), maxAccountFile), 0o600) },
	} {
		r := request(t)
		p := filepath.Join(r.Rootfs, "etc/passwd")
		_ = os.Remove(p)
		if err := make(p); err != nil {
			t.Fatal(err)
		}
		t.Log(name)
		wantError(t, b, r, messages.Invalid, "/etc/passwd of the image")
	}
}

func TestTheOOMScoreAndLimitsAreWhatThisProcessMayGive(t *testing.T) {
	n := testNode(t)
	for _, c := range []struct{ asked, floor, want int }{{-997, -1000, -997}, {-997, 0, 0}, {985, 0, 985}, {0, -1000, 0}, {-5, -3, -3}} {
		n.oomFloor = c.floor
		r := request(t)
		r.Config.Linux.Resources.OomScoreAdj = int64(c.asked)
		spec, _ := written(t, newTest(t, n), r)
		if spec.Process.OOMScoreAdj == nil || *spec.Process.OOMScoreAdj != c.want {
			t.Errorf("%+v: %v", c, spec.Process.OOMScoreAdj)
		}
	}
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &own); err != nil {
		t.Fatal(err)
	}
	n.rlimits = false
	r := request(t)
	spec, _ := written(t, newTest(t, n, func(c *Config) { c.DefaultUlimits = []string{"nproc=-1:-1", "core=0"} }), r)
	equal(t, "limits", spec.Process.Rlimits, []specs.POSIXRlimit{
		{Type: "RLIMIT_NPROC", Soft: own.Max, Hard: own.Max}, {Type: "RLIMIT_CORE"},
	})
}

func TestStopSignalsAreWrittenInOneForm(t *testing.T) {
	b := newTest(t, testNode(t))
	for image, want := range map[string]string{
		"": "SIGTERM", "SIGQUIT": "SIGQUIT", "quit": "SIGQUIT", "9": "SIGKILL", "SIGRTMIN+3": "SIGRTMIN+3", "37": "SIGRTMIN+3",
		"RTMAX": "SIGRTMAX", "SIGRTMAX-1": "SIGRTMAX-1", "SIGRTMIN": "SIGRTMIN", "nonsense": "SIGTERM", "99": "SIGTERM", "0": "SIGTERM", "SIGRTMIN+40": "SIGTERM",
	} {
		r := request(t)
		r.Image.StopSignal = image
		if _, out := written(t, b, r); out.StopSignal != want {
			t.Errorf("%q: %s, want %s", image, out.StopSignal, want)
		}
	}
	// Every signal of CRI comes back as itself, or as another name of it.
	for number, name := range runtime.Signal_name {
		if number == 0 {
			continue
		}
		r := request(t)
		r.Config.StopSignal = runtime.Signal(number)
		want := strings.NewReplacer("SIGNAL_", "", "PLUS", "+", "MINUS", "-").Replace(name)
		if twin := twins[want]; twin != "" {
			want = twin
		}
		if _, out := written(t, b, r); out.StopSignal != want {
			t.Errorf("%s: %s", name, out.StopSignal)
		}
	}
}

func TestTheLogStaysBelowThePodsLogDirectory(t *testing.T) {
	b := newTest(t, testNode(t))
	r := request(t)
	r.Config.LogPath = "c/./x/../0.log"
	if _, out := written(t, b, r); out.LogPath != "/var/log/pods/web/c/0.log" {
		t.Error(out.LogPath)
	}
	for _, bad := range []string{"../other/0.log", "/etc/cron.d/x", "c/../../x", ".", "a\nb"} {
		r := request(t)
		r.Config.LogPath = bad
		wantError(t, b, r, messages.Invalid, "log_path")
	}
	r.PodConfig.LogDirectory = ""
	if _, out := written(t, b, r); out.LogPath != "" {
		t.Error(out.LogPath)
	}
}

func TestNoAnnotationOfTheCallerReachesTheRuntime(t *testing.T) {
	b := newTest(t, testNode(t))
	r := request(t)
	bad := map[string]string{"run.oci.seccomp_bpf_data": "AAAA", "org.systemd.property.ExecStart": "x", "run.troupe.pod.name": "other"}
	r.Config.Annotations, r.PodConfig.Annotations = bad, bad
	spec, _ := written(t, b, r)
	equal(t, "annotations", spec.Annotations, map[string]string{
		"run.troupe.container-type": "container", "run.troupe.container.id": r.Container, "run.troupe.container.name": "c",
		"run.troupe.pod.id": r.Pod, "run.troupe.pod.name": "web", "run.troupe.pod.namespace": "default", "run.troupe.pod.uid": "u1",
	})
}

func TestThePauseProcessCanDoNothing(t *testing.T) {
	r := request(t)
	pause := backends.BundleRequest{Pod: r.Pod, Container: r.Pod, PodConfig: r.PodConfig, Namespaces: r.Namespaces, CgroupParent: r.CgroupParent}
	n := testNode(t)
	n.oomFloor = 0
	b := newTest(t, n)
	spec, out := written(t, b, pause)
	equal(t, "dir", out.Dir, filepath.Join(b.config.Root, "pods", r.Pod, "pause"))
	equal(t, "args", spec.Process.Args, []string{"/pause"})
	equal(t, "capabilities", spec.Process.Capabilities, &specs.LinuxCapabilities{})
	if !spec.Process.NoNewPrivileges || !spec.Root.Readonly || spec.Root.Path != "rootfs" || spec.Linux.Seccomp == nil || *spec.Process.OOMScoreAdj != 0 {
		t.Errorf("%+v %+v", spec.Process, spec.Root)
	}
	if pid := namespaceOf(spec, specs.PIDNamespace); pid == nil || pid.Path != "" {
		t.Errorf("pid namespace: %v", pid)
	}
	if net := namespaceOf(spec, specs.NetworkNamespace); net == nil || net.Path != "/run/ns/net" {
		t.Errorf("network namespace: %v", net)
	}
	equal(t, "cgroup", spec.Linux.CgroupsPath, "/kubepods/pod1/troupe-"+r.Pod)
}

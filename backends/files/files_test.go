package files_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/backends/files"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func backend(t *testing.T, root, run string) *files.Backend {
	b := files.New(files.Config{Root: root, Run: run})
	t.Cleanup(func() {
		held, err := b.Held(context.Background())
		ok(t, err)
		for _, h := range held {
			ok(t, b.Drop(context.Background(), h))
		}
	})
	return b
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	ok(t, err)
	return string(content)
}

func TestConformance(t *testing.T) {
	conformance.Files(t, func(t *testing.T) backends.Files { return backend(t, t.TempDir(), t.TempDir()) })
}

func TestThePodGetsTheDNSItAskedFor(t *testing.T) {
	b := backend(t, t.TempDir(), t.TempDir())
	got, err := b.Make(t.Context(), backends.FilesRequest{Pod: conformance.ID(t), Hostname: "web-0", DNS: &runtime.DNSConfig{
		Servers:  []string{"10.96.0.10", "fd00::10", "fe80::1%eth0"},
		Searches: []string{"default.svc.cluster.local", "svc.cluster.local"},
		Options:  []string{"ndots:5", "edns0"},
	}})
	ok(t, err)
	want := "nameserver 10.96.0.10\nnameserver fd00::10\nnameserver fe80::1%eth0\n" +
		"search default.svc.cluster.local svc.cluster.local\noptions ndots:5 edns0\n"
	if text := read(t, got.ResolvConf); text != want {
		t.Errorf("resolv.conf:\n%s", text)
	}
	if text := read(t, got.Hostname); text != "web-0\n" {
		t.Errorf("hostname: %q", text)
	}
	info, err := os.Stat(got.ResolvConf)
	ok(t, err)
	if info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v: a container's user could not read it", info.Mode())
	}
}

func TestAPodThatAsksForNothingGetsTheNodesFiles(t *testing.T) {
	b := backend(t, t.TempDir(), t.TempDir())
	got, err := b.Make(t.Context(), backends.FilesRequest{Pod: conformance.ID(t), DNS: &runtime.DNSConfig{}})
	ok(t, err)
	if read(t, got.ResolvConf) != read(t, "/etc/resolv.conf") {
		t.Error("resolv.conf is not the node's")
	}
	node, err := os.Hostname()
	ok(t, err)
	if read(t, got.Hostname) != node+"\n" {
		t.Errorf("hostname %q", read(t, got.Hostname))
	}
}

func TestShmIsATmpfsOfTheSizeAskedForAndKeepsItsContentOnRepeat(t *testing.T) {
	b := backend(t, t.TempDir(), t.TempDir())
	r := backends.FilesRequest{Pod: conformance.ID(t), Hostname: "x", ShmSize: 1 << 20}
	for _, size := range []int64{1 << 20, 4 << 20, 0} {
		r.ShmSize = size
		got, err := b.Make(t.Context(), r)
		ok(t, err)
		var st unix.Statfs_t
		ok(t, unix.Statfs(got.Shm, &st))
		want := size
		if want == 0 {
			want = 64 << 20
		}
		if st.Type != unix.TMPFS_MAGIC || int64(st.Blocks)*st.Bsize != want {
			t.Errorf("type %x, %d bytes, want %d", st.Type, int64(st.Blocks)*st.Bsize, want)
		}
		if flags := int64(unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC); st.Flags&flags != flags {
			t.Errorf("flags %x", st.Flags)
		}
		info, err := os.Stat(got.Shm)
		ok(t, err)
		if info.Mode().Perm() != 0o777 || info.Mode()&os.ModeSticky == 0 {
			t.Errorf("mode %v, want 1777", info.Mode())
		}
		ok(t, os.WriteFile(filepath.Join(got.Shm, "kept"), nil, 0o600))
	}
	got, err := b.Make(t.Context(), r)
	ok(t, err)
	if _, err := os.Stat(filepath.Join(got.Shm, "kept")); err != nil {
		t.Errorf("a second Make lost the content: %v", err)
	}
}

func TestTheRootOfAUserNamespaceOwnsItsPodsFiles(t *testing.T) {
	b := backend(t, t.TempDir(), t.TempDir())
	got, err := b.Make(t.Context(), backends.FilesRequest{Pod: conformance.ID(t), Hostname: "x", User: &messages.UserNamespace{
		UIDs: messages.IDRange{Host: 165536, Length: 65536}, GIDs: messages.IDRange{Host: 265536, Length: 65536},
	}})
	ok(t, err)
	for _, path := range []string{got.ResolvConf, got.Hostname, got.Shm} {
		var st unix.Stat_t
		ok(t, unix.Stat(path, &st))
		if st.Uid != 165536 || st.Gid != 265536 {
			t.Errorf("%s belongs to %d:%d", path, st.Uid, st.Gid)
		}
	}
}

func TestRemoveUnmountsWhileAProcessStillUsesIt(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	b := backend(t, root, run)
	r := backends.FilesRequest{Pod: conformance.ID(t), Hostname: "x"}
	got, err := b.Make(t.Context(), r)
	ok(t, err)
	open, err := os.Create(filepath.Join(got.Shm, "open"))
	ok(t, err)
	defer func() { _ = open.Close() }()
	ok(t, b.Remove(t.Context(), r.Pod))
	if strings.Contains(read(t, "/proc/self/mountinfo"), run) {
		t.Error("still mounted")
	}
	for _, dir := range []string{filepath.Join(root, "pods"), filepath.Join(run, "shm")} {
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
}

func TestAContainersMountedFileIsNotReplacedByARepeat(t *testing.T) {
	b := backend(t, t.TempDir(), t.TempDir())
	r := backends.FilesRequest{Pod: conformance.ID(t), Hostname: "x"}
	got, err := b.Make(t.Context(), r)
	ok(t, err)
	before, err := os.Stat(got.Hostname)
	ok(t, err)
	_, err = b.Make(t.Context(), r)
	ok(t, err)
	if after, err := os.Stat(got.Hostname); err != nil || !os.SameFile(before, after) {
		t.Errorf("the file is another one now (%v)", err)
	}
}

func TestAFullDiskIsNoSpace(t *testing.T) {
	root := t.TempDir()
	ok(t, unix.Mount("tmpfs", root, "tmpfs", 0, "size=16k"))
	t.Cleanup(func() { ok(t, unix.Unmount(root, unix.MNT_DETACH)) })
	b := backend(t, root, t.TempDir())
	err := os.WriteFile(filepath.Join(root, "filler"), make([]byte, 1<<20), 0o600)
	if err == nil {
		t.Fatal("the small disk is not small")
	}
	_, err = b.Make(t.Context(), backends.FilesRequest{Pod: conformance.ID(t), Hostname: "x"})
	if err == nil || messages.KindOf(err) != messages.NoSpace {
		t.Errorf("got %v, want kind NoSpace", err)
	}
}

package rootfs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// userNS is a user namespace with a process in it.
func userNS(t *testing.T) (*messages.UserNamespace, int) {
	u := &messages.UserNamespace{UIDs: messages.IDRange{Host: 165536, Length: 65536}, GIDs: messages.IDRange{Host: 265536, Length: 65536}}
	// No Pdeathsig: it is tied to a thread, and threads end here.
	cmd := exec.Command("sleep", "300")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: int(u.UIDs.Host), Size: int(u.UIDs.Length)}},
		GidMappings: []syscall.SysProcIDMap{{HostID: int(u.GIDs.Host), Size: int(u.GIDs.Length)}},
	}
	ok(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	u.Path = "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/user"
	return u, cmd.Process.Pid
}

// walkable lets all users walk to a directory of the test's.
func walkable(t *testing.T, dir string) string {
	for d := dir; d != filepath.Clean(os.TempDir()) && d != "/"; d = filepath.Dir(d) {
		ok(t, os.Chmod(d, 0o755))
	}
	return dir
}

func owner(t *testing.T, path string) [2]uint32 {
	t.Helper()
	var st unix.Stat_t
	ok(t, unix.Lstat(path, &st))
	return [2]uint32{st.Uid, st.Gid}
}

// inside runs a command as root of the user namespace.
func inside(t *testing.T, pid int, command string) string {
	t.Helper()
	out, err := exec.Command("nsenter", "-t", strconv.Itoa(pid), "--user", "--setuid=0", "--setgid=0", "sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v", command, err)
	}
	return strings.TrimSpace(string(out))
}

func TestARootForAUserNamespaceHasTheImagesOwnersInside(t *testing.T) {
	for name, classic := range map[string]bool{"new": false, "classic": true} {
		t.Run(name, func(t *testing.T) {
			layers, image := layers(t, 3), conformance.ID(t)
			ok(t, os.Chmod(layers[0], 0o755))
			ok(t, os.WriteFile(filepath.Join(layers[1], "of-1000"), []byte("x"), 0o640))
			ok(t, os.Chown(filepath.Join(layers[1], "of-1000"), 1000, 2000))
			ok(t, os.Chmod(filepath.Join(layers[0], "who"), 0o600))
			r := open(t, walkable(t, tmpfs(t)), image, layers)
			u, pid := userNS(t)
			q := backends.RootfsRequest{Pod: conformance.ID(t), Container: conformance.ID(t), ImageID: image, User: u}
			if classic {
				noLowerdirPlus = true
				t.Cleanup(func() { noLowerdirPlus = false })
			}
			root, err := r.Mount(t.Context(), q)
			ok(t, err)
			for file, want := range map[string][2]uint32{"": {165536, 265536}, "who": {165536, 265536}, "of-1000": {166536, 267536}} {
				if got := owner(t, filepath.Join(root, file)); got != want {
					t.Errorf("/%s belongs to %v on the node, want %v", file, got, want)
				}
			}
			// Its root reads what is root's alone, writes, and copies up.
			out := inside(t, pid, "cd "+root+" && stat -c %u:%g who of-1000 && cat who && echo more >> of-1000 && mkdir new && stat -c %u:%g of-1000 new")
			if want := "0:0\n1000:2000\nlayer 0\n1000:2000\n0:0"; strings.Replace(out, "layer 0", "layer 0\n", 1) != want {
				t.Errorf("inside:\n%s", out)
			}
			p, err := r.place(q.Pod, q.Container)
			ok(t, err)
			if got := owner(t, filepath.Join(p.upper, "of-1000")); got != [2]uint32{166536, 267536} {
				t.Errorf("what was copied up belongs to %v", got)
			}
			if got := owner(t, filepath.Join(layers[1], "of-1000")); got != [2]uint32{1000, 2000} {
				t.Errorf("the layer's file belongs to %v now", got)
			}
		})
	}
}

func TestNothingIsLeftOfMappedLayers(t *testing.T) {
	layers, image := layers(t, 5), conformance.ID(t)
	base := tmpfs(t)
	r := open(t, base, image, layers)
	u, _ := userNS(t)
	before := strings.Count(read(t, "/proc/self/mountinfo"), "\n")
	pod, c := conformance.ID(t), conformance.ID(t)
	_, err := r.Mount(t.Context(), backends.RootfsRequest{Pod: pod, Container: c, ImageID: image, User: u})
	ok(t, err)
	if now := strings.Count(read(t, "/proc/self/mountinfo"), "\n"); now != before+1 {
		t.Errorf("%d mounts more, want the container's root alone", now-before)
	}
	ok(t, r.Unmount(t.Context(), pod, c))
	if now := strings.Count(read(t, "/proc/self/mountinfo"), "\n"); now != before {
		t.Errorf("%d mounts are left", now-before)
	}
}

func TestOnlyTheMappedRootCanWalkIntoAPodsDirectory(t *testing.T) {
	layers, image := layers(t, 1), conformance.ID(t)
	r := open(t, walkable(t, tmpfs(t)), image, layers)
	u, pid := userNS(t)
	_, other := userNS(t)
	q := backends.RootfsRequest{Pod: conformance.ID(t), Container: conformance.ID(t), ImageID: image, User: u}
	path, err := r.Mount(t.Context(), q)
	ok(t, err)
	inside(t, pid, "test -d "+path)
	for who, command := range map[string][]string{
		"a user of the node":                {"setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "test", "-d", path},
		"another user of the pod":           {"nsenter", "-t", strconv.Itoa(pid), "--user", "--setuid=5", "--setgid=5", "test", "-d", path},
		"a user of the pod, listing a path": {"nsenter", "-t", strconv.Itoa(other), "--user", "--setuid=0", "--setgid=0", "ls", filepath.Join(r.root, "pods")},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err == nil {
			t.Errorf("%s could: %s", who, out)
		}
	}
}

func TestTheProbeSaysWhetherRootsCanBeMapped(t *testing.T) {
	layers, image := layers(t, 1), conformance.ID(t)
	base := walkable(t, tmpfs(t))
	r := open(t, filepath.Join(base, "root"), image, layers)
	u, _ := userNS(t)
	ok(t, r.CanMap(t.Context(), layers[0], u.Path))
	// An overlay cannot be a shifted layer.
	path := mount(t, r, conformance.ID(t), conformance.ID(t), image)
	if err := r.CanMap(t.Context(), path, u.Path); err == nil || messages.KindOf(err) != messages.Precondition {
		t.Errorf("over an overlay: %v", err)
	}
	ok(t, os.Chmod(base, 0o700))
	if err := r.CanMap(t.Context(), layers[0], u.Path); err == nil || !strings.Contains(err.Error(), "chmod o+x "+base) {
		t.Errorf("with %s closed: %v", base, err)
	}
	if left, _ := filepath.Glob(filepath.Join(r.root, ".probe-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestAnImageWhoseRootIsNotMappedIsRefused(t *testing.T) {
	layers, image := layers(t, 1), conformance.ID(t)
	ok(t, os.Chown(layers[0], 70000, 0))
	r := open(t, tmpfs(t), image, layers)
	u, _ := userNS(t)
	_, err := r.Mount(t.Context(), backends.RootfsRequest{Pod: conformance.ID(t), Container: conformance.ID(t), ImageID: image, User: u})
	if err == nil || messages.KindOf(err) != messages.Invalid {
		t.Errorf("%v", err)
	}
}

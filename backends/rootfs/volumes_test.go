package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

func TestVolumesConform(t *testing.T) {
	conformance.Volumes(t, func(t *testing.T) conformance.VolumesHarness {
		image := conformance.ID(t)
		return conformance.VolumesHarness{Volumes: NewVolumes(open(t, tmpfs(t), image, layers(t, 2))), ImageID: image}
	})
}

// volumes is an image with these files as its single layer.
func volumes(t *testing.T, fill func(layer string)) (v *Volumes, image string) {
	t.Helper()
	layer := filepath.Join(tmpfs(t), "layer")
	ok(t, os.Mkdir(layer, 0o755))
	fill(layer)
	image = conformance.ID(t)
	return NewVolumes(open(t, tmpfs(t), image, []string{layer})), image
}

func mountPart(t *testing.T, v *Volumes, image, sub string) (string, error) {
	t.Helper()
	pod, c := conformance.ID(t), conformance.ID(t)
	t.Cleanup(func() { ok(t, v.Unmount(context.Background(), pod, c)) })
	paths, err := v.Mount(t.Context(), backends.VolumesRequest{Pod: pod, Container: c, Images: []backends.ImageVolume{{ImageID: image, SubPath: sub}}})
	if err != nil {
		return "", err
	}
	return paths.Images[0], nil
}

func TestAnImageVolumeCannotBeWrittenTo(t *testing.T) {
	v, image := volumes(t, func(layer string) { ok(t, os.WriteFile(filepath.Join(layer, "f"), []byte("x"), 0o644)) })
	at, err := mountPart(t, v, image, "")
	ok(t, err)
	if read(t, filepath.Join(at, "f")) != "x" {
		t.Error("the file of the image is not there")
	}
	if err := os.WriteFile(filepath.Join(at, "f"), []byte("y"), 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing: %v", err)
	}
	var st unix.Statfs_t
	ok(t, unix.Statfs(at, &st))
	for name, flag := range map[string]int64{"nosuid": unix.ST_NOSUID, "nodev": unix.ST_NODEV, "ro": unix.ST_RDONLY} {
		if int64(st.Flags)&flag == 0 {
			t.Errorf("it is not mounted %s", name)
		}
	}
}

// A link in an image must not choose a directory of the node (as
// CVE-2022-23648 did with VOLUMEs).
func TestALinkInAnImageDoesNotLeadOutOfIt(t *testing.T) {
	secret := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(secret, "key"), []byte("the node's"), 0o644))
	v, image := volumes(t, func(layer string) {
		ok(t, os.MkdirAll(filepath.Join(layer, secret), 0o755))
		ok(t, os.WriteFile(filepath.Join(layer, secret, "key"), []byte("the image's"), 0o644))
		ok(t, os.Symlink(secret, filepath.Join(layer, "absolute")))
		ok(t, os.Symlink(strings.Repeat("../", 40)+secret, filepath.Join(layer, "relative")))
		ok(t, os.Symlink("/proc/self/root", filepath.Join(layer, "proc")))
	})
	for _, sub := range []string{"absolute", "relative", "absolute/key", "./relative/key"} {
		at, err := mountPart(t, v, image, sub)
		ok(t, err)
		if !strings.HasSuffix(at, "key") {
			at = filepath.Join(at, "key")
		}
		if got := read(t, at); got != "the image's" {
			t.Errorf("%s leads to %q", sub, got)
		}
	}
	for sub, kind := range map[string]messages.Kind{
		"proc" + secret: messages.ImageVolumeMountFailed, "missing": messages.ImageVolumeMountFailed, "absolute/key/x": messages.ImageVolumeMountFailed,
		"../x": messages.Invalid, "/etc": messages.Invalid, "a/../../b": messages.Invalid,
	} {
		if _, err := mountPart(t, v, image, sub); messages.KindOf(err) != kind {
			t.Errorf("%s: kind %v, %v", sub, messages.KindOf(err), err)
		}
	}
}

func TestAnAnonymousVolumeHasWhatTheImageHasThere(t *testing.T) {
	v, _ := volumes(t, func(string) {})
	v.root.cfg.BindVolumes = true
	root := t.TempDir()
	data := filepath.Join(root, "data")
	ok(t, os.MkdirAll(filepath.Join(data, "sub"), 0o755))
	ok(t, os.WriteFile(filepath.Join(data, "sub/f"), []byte("content"), 0o600))
	ok(t, os.Chown(filepath.Join(data, "sub/f"), 7, 8))
	ok(t, os.Chmod(filepath.Join(data, "sub/f"), 0o4755|os.ModeSetuid))
	ok(t, os.Symlink("/etc/shadow", filepath.Join(data, "link")))
	ok(t, unix.Mkfifo(filepath.Join(data, "pipe"), 0o600))
	ok(t, os.Chmod(data, 0o1777|os.ModeSticky))
	ok(t, os.Symlink("/etc", filepath.Join(root, "escape")))
	pod, c := conformance.ID(t), conformance.ID(t)
	made, err := v.Mount(t.Context(), backends.VolumesRequest{Pod: pod, Container: c, Rootfs: root, Anonymous: []string{"/data", "/escape", "/none"}})
	ok(t, err)
	own := made.Anonymous["/data"]
	if got := read(t, filepath.Join(own, "sub/f")); got != "content" {
		t.Errorf("the file has %q", got)
	}
	var st unix.Stat_t
	ok(t, unix.Lstat(filepath.Join(own, "sub/f"), &st))
	if st.Uid != 7 || st.Gid != 8 || st.Mode&0o7777 != 0o4755 {
		t.Errorf("owner %d:%d, mode %o", st.Uid, st.Gid, st.Mode&0o7777)
	}
	if to, err := os.Readlink(filepath.Join(own, "link")); err != nil || to != "/etc/shadow" {
		t.Errorf("the link leads to %q: %v", to, err)
	}
	if _, err := os.Lstat(filepath.Join(own, "pipe")); err == nil {
		t.Error("a pipe was copied")
	}
	info, err := os.Stat(own)
	ok(t, err)
	if info.Mode().Perm() != 0o777 || info.Mode()&os.ModeSticky == 0 {
		t.Errorf("mode %v of the top", info.Mode())
	}
	for _, at := range []string{"/escape", "/none"} { // CVE-2022-23648
		if entries, err := os.ReadDir(made.Anonymous[at]); err != nil || len(entries) > 0 {
			t.Errorf("%s holds %v: %v", at, entries, err)
		}
	}
	ok(t, v.Unmount(t.Context(), pod, c))
	if _, err := os.Lstat(own); err == nil {
		t.Error("it outlives its container")
	}
}

// fakeLabels keeps labels by inode.
type fakeLabels struct {
	labels map[uint64]string
	sets   int
	onSet  func(fd int) error
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	ok(t, unix.Lstat(path, &st))
	return st.Ino
}

func (f *fakeLabels) get(fd int) (string, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return f.labels[st.Ino], err
}

func (f *fakeLabels) set(fd int, label string) error {
	if f.onSet != nil {
		if err := f.onSet(fd); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	f.labels[st.Ino] = label
	f.sets++
	return err
}

func labelled(t *testing.T) (*Volumes, *fakeLabels, string) {
	t.Helper()
	f := &fakeLabels{labels: map[uint64]string{}}
	top := tmpfs(t)
	for i := range 3 {
		ok(t, os.MkdirAll(filepath.Join(top, fmt.Sprint("d", i), "sub"), 0o755))
		ok(t, os.WriteFile(filepath.Join(top, fmt.Sprint("d", i), "sub/f"), nil, 0o644))
	}
	return &Volumes{labels: f}, f, top
}

func nobody(int64) {}

func TestRelabellingReachesEveryFileAndWritesNoneTwice(t *testing.T) {
	v, f, top := labelled(t)
	ok(t, os.Symlink("/etc/passwd", filepath.Join(top, "link")))
	r := backends.Relabel{Path: top, Label: "a"}
	ok(t, v.Relabel(t.Context(), r, nobody))
	for _, p := range []string{"", "d0", "d1/sub", "d2/sub/f", "link"} {
		if f.labels[inode(t, filepath.Join(top, p))] != "a" {
			t.Errorf("%q has no label", p)
		}
	}
	if _, labelled := f.labels[inode(t, "/etc/passwd")]; labelled {
		t.Error("what a link leads to got the label")
	}
	sets := f.sets
	ok(t, os.WriteFile(filepath.Join(top, "d0/new"), nil, 0o644))
	ok(t, v.Relabel(t.Context(), r, nobody))
	if f.sets != sets+1 {
		t.Errorf("%d labels were written for one new file", f.sets-sets)
	}
	ok(t, os.WriteFile(filepath.Join(top, "d0/newer"), nil, 0o644))
	r.IfTopDiffers = true
	ok(t, v.Relabel(t.Context(), r, nobody))
	if f.sets != sets+1 {
		t.Error("a tree whose top has the label was walked")
	}
}

// The top is last: a walk that was cut off is not taken for a whole one.
func TestARelabellingThatIsCutOffGoesOnNextTime(t *testing.T) {
	v, f, top := labelled(t)
	ctx, cancel := context.WithCancel(t.Context())
	f.onSet = func(int) error {
		if f.sets == 3 {
			cancel()
		}
		return nil
	}
	r := backends.Relabel{Path: top, Label: "a", IfTopDiffers: true}
	if err := v.Relabel(ctx, r, nobody); messages.KindOf(err) != messages.Canceled {
		t.Fatalf("kind %v: %v", messages.KindOf(err), err)
	}
	ok(t, v.Relabel(t.Context(), r, nobody))
	if f.sets != 10 { // 3 × (directory, sub, file) and the top
		t.Errorf("%d labels written for 10 files", f.sets)
	}
}

// A pod that has the volume already may swap a directory for a link meanwhile.
func TestADirectoryThatBecomesALinkDoesNotLeadTheLabelAway(t *testing.T) {
	v, f, top := labelled(t)
	outside := t.TempDir()
	ok(t, os.Mkdir(filepath.Join(outside, "sub"), 0o755))
	ok(t, os.WriteFile(filepath.Join(outside, "sub/f"), nil, 0o644))
	f.onSet = func(int) error {
		f.onSet = nil
		for i := range 3 {
			dir := filepath.Join(top, fmt.Sprint("d", i))
			ok(t, os.Rename(dir, dir+"-moved"))
			ok(t, os.Symlink(outside, dir))
		}
		return nil
	}
	ok(t, v.Relabel(t.Context(), backends.Relabel{Path: top, Label: "a"}, nobody))
	for _, p := range []string{"", "sub", "sub/f"} {
		if _, labelled := f.labels[inode(t, filepath.Join(outside, p))]; labelled {
			t.Errorf("%s, outside the volume, got the label", filepath.Join(outside, p))
		}
	}
}

func TestWhatTheNodeNeedsIsNotRelabelled(t *testing.T) {
	v, f, top := labelled(t)
	link := filepath.Join(top, "usr")
	ok(t, os.Symlink("/usr", link))
	for _, path := range []string{"/", "/usr", "/etc", "/var/lib", "/root", "/usr/", link} {
		err := v.Relabel(t.Context(), backends.Relabel{Path: path, Label: "a"}, nobody)
		if messages.KindOf(err) != messages.Invalid || !strings.Contains(err.Error(), "not allowed") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if f.sets > 0 {
		t.Errorf("%d files were labelled", f.sets)
	}
}

func TestProgressIsToldAndFileSystemsWithoutLabelsAreLeft(t *testing.T) {
	v, f, top := labelled(t)
	for i := range reportEvery {
		ok(t, os.WriteFile(filepath.Join(top, fmt.Sprint("f", i)), nil, 0o644))
	}
	f.onSet = func(int) error { return unix.ENOTSUP }
	told := int64(0)
	ok(t, v.Relabel(t.Context(), backends.Relabel{Path: top, Label: "a"}, func(files int64) { told = files }))
	if told != reportEvery {
		t.Errorf("the last word was %d files", told)
	}
	f.onSet = func(int) error { return unix.EROFS }
	if err := v.Relabel(t.Context(), backends.Relabel{Path: top, Label: "a"}, nobody); !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), top) {
		t.Errorf("a read-only volume: %v", err)
	}
}

package checkpoints

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// entry is one of a tar to be made.
type entry struct {
	tar.Header
	content string
}

func tarOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		e.Mode = max(e.Mode, 0o600)
		if e.Size == 0 {
			e.Size = int64(len(e.content))
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.Close() // one entry may be cut off on purpose
	return out.Bytes()
}

func file(name, content string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg}, content}
}

// captured is a checkpoint's directory with one container, and a root for it.
func captured(t *testing.T, diff []byte, more ...entry) (b *Backend, r backends.UnpackRequest) {
	t.Helper()
	b, _ = lab(t)
	r = backends.UnpackRequest{Dir: t.TempDir(), Name: "web", Pod: pod, Container: container, Rootfs: filepath.Join(t.TempDir(), "root")}
	if err := os.MkdirAll(filepath.Join(r.Rootfs, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.Rootfs, "etc", "gone"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	archive := tarOf(t, append([]entry{
		file(configDump, `{"name":"web"}`), file("checkpoint/inventory.img", "criu's"), file(rootfsDiff, string(diff)),
		file(deletedFiles, `["/etc/gone"]`), file("dump.log", "not needed"),
	}, more...)...)
	if err := os.WriteFile(filepath.Join(r.Dir, "web.tar"), archive, 0o600); err != nil {
		t.Fatal(err)
	}
	return b, r
}

func TestARootBecomesWhatTheContainerHadMadeOfIt(t *testing.T) {
	diff := tarOf(t,
		entry{tar.Header{Name: "var/lib", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 7}, ""},
		entry{tar.Header{Name: "var/lib/tool", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 7, Gid: 8, Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y"}}, "program"},
		entry{tar.Header{Name: "var/lib/link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, ""},
		entry{tar.Header{Name: "var/lib/same", Typeflag: tar.TypeLink, Linkname: "var/lib/tool"}, ""},
		entry{tar.Header{Name: "var/lib/pipe", Typeflag: tar.TypeFifo, Mode: 0o600}, ""},
	)
	b, r := captured(t, diff)
	for range 2 { // a step can be repeated
		dir, err := b.Unpack(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if got := names(t, dir); !slices.Equal(got, []string{"checkpoint", "config.dump", "deleted.files"}) {
			t.Errorf("unpacked: %v", got)
		}
	}
	if _, err := os.Lstat(filepath.Join(r.Rootfs, "etc/gone")); !os.IsNotExist(err) {
		t.Error("what was deleted is back")
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(r.Rootfs, "var/lib/tool"), &st); err != nil || st.Uid != 7 || st.Gid != 8 || st.Mode != unix.S_IFREG|0o4755 || st.Nlink != 2 {
		t.Errorf("the tool is %o of %d:%d with %d names, %v", st.Mode, st.Uid, st.Gid, st.Nlink, err)
	}
	value := make([]byte, 8)
	if n, err := unix.Getxattr(filepath.Join(r.Rootfs, "var/lib/tool"), "user.x", value); err == nil && string(value[:n]) != "y" {
		t.Errorf("its attribute is %q", value[:n])
	}
	if to, err := os.Readlink(filepath.Join(r.Rootfs, "var/lib/link")); err != nil || to != "/etc/passwd" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	// It outlives the daemon, and is found without any record.
	again, err := New(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	held, err := again.Held(t.Context())
	if err != nil || len(held) != 1 || held[0].Pod != pod || held[0].Container != container {
		t.Fatalf("held: %v, %v", held, err)
	}
	for range 2 {
		if err := again.Drop(t.Context(), held[0]); err != nil {
			t.Error(err)
		}
	}
	if left := names(t, b.cfg.Work); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAnArchiveThatLeadsElsewhereIsRefusedAndReachesNothing(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := entry{tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: outside}, ""}
	for what, diff := range map[string][]byte{
		"a path upwards":      tarOf(t, file("../secret", "x")),
		"an absolute path":    tarOf(t, file(secret, "x")),
		"through a link":      tarOf(t, out, file("out/secret", "x")),
		"a hard link outside": tarOf(t, out, entry{tar.Header{Name: "in", Typeflag: tar.TypeLink, Linkname: "out/secret"}, ""}),
		"a hard link upwards": tarOf(t, entry{tar.Header{Name: "in", Typeflag: tar.TypeLink, Linkname: "../secret"}, ""}),
		"a device":            tarOf(t, entry{tar.Header{Name: "disk", Typeflag: tar.TypeBlock, Devmajor: 8}, ""}),
		"a whiteout":          tarOf(t, entry{tar.Header{Name: "etc", Typeflag: tar.TypeChar}, ""}),
		"overlay's attribute": tarOf(t, entry{tar.Header{Name: "x", Typeflag: tar.TypeReg, Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/x"}}, ""}),
		"a tar cut off":       tarOf(t, entry{tar.Header{Name: "x", Typeflag: tar.TypeReg, Size: 4096}, "short"}),
	} {
		b, r := captured(t, diff)
		_, err := b.Unpack(t.Context(), r)
		if err == nil {
			t.Errorf("%s is accepted", what)
		}
		if strings.HasPrefix(what, "a path") || strings.HasPrefix(what, "a device") || strings.HasPrefix(what, "overlay") {
			if messages.KindOf(err) != messages.Invalid {
				t.Errorf("%s: %v is not Invalid", what, err)
			}
		}
		if data, err := os.ReadFile(secret); err != nil || string(data) != "untouched" {
			t.Fatalf("%s has reached a file outside: %q, %v", what, data, err)
		}
		if err := b.Forget(t.Context(), pod, container); err != nil {
			t.Error(err)
		}
		if left := names(t, b.cfg.Work); len(left) > 0 {
			t.Errorf("%s: left behind: %v", what, left)
		}
	}
	for what, e := range map[string]entry{
		"upwards":         file("../../x", "x"),
		"a link":          {tar.Header{Name: "checkpoint/pages-1.img", Typeflag: tar.TypeSymlink, Linkname: secret}, ""},
		"a file twice":    file("checkpoint/inventory.img", "another"),
		"another's name":  file(configDump, `{"name":"db"}`),
		"a device for it": {tar.Header{Name: "checkpoint/core-1.img", Typeflag: tar.TypeChar}, ""},
	} {
		b, r := captured(t, tarOf(t), e)
		if _, err := b.Unpack(t.Context(), r); err == nil {
			t.Errorf("an archive with %s is accepted", what)
		}
	}
	b, r := captured(t, tarOf(t))
	if err := os.Rename(filepath.Join(r.Dir, "web.tar"), filepath.Join(r.Dir, "real")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(r.Dir, "web.tar")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Unpack(t.Context(), r); messages.KindOf(err) != messages.Invalid {
		t.Errorf("a link for an archive: %v", err)
	}
}

func TestUnpackingEndsWithItsCaller(t *testing.T) {
	b, r := captured(t, tarOf(t))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Unpack(ended, r); err == nil {
		t.Error("it goes on")
	}
}

package rootfs

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/troupe-run/troupe/backends/conformance"
	"golang.org/x/sys/unix"
)

func TestTheChangesOfARootAreWhatWasWrittenAndWhatIsGone(t *testing.T) {
	layers, image := layers(t, 2), conformance.ID(t)
	ok(t, os.MkdirAll(filepath.Join(layers[1], "dir/sub"), 0o755))
	for _, f := range []string{"dir/old", "dir/sub/old", "dir/both"} {
		ok(t, os.WriteFile(filepath.Join(layers[1], f), []byte("image"), 0o644))
	}
	r := open(t, tmpfs(t), image, layers)
	pod, id := conformance.ID(t), conformance.ID(t)
	root := mount(t, r, pod, id, image)

	ok(t, os.WriteFile(filepath.Join(root, "new"), []byte("container"), 0o640))
	ok(t, unix.Setxattr(filepath.Join(root, "new"), "user.mine", []byte("yes"), 0))
	ok(t, os.Link(filepath.Join(root, "new"), filepath.Join(root, "twin")))
	ok(t, os.Symlink("new", filepath.Join(root, "link")))
	ok(t, os.Remove(filepath.Join(root, "only-1")))
	ok(t, os.RemoveAll(filepath.Join(root, "dir"))) // and made anew: the layer's is covered
	ok(t, os.Mkdir(filepath.Join(root, "dir"), 0o755))
	ok(t, os.WriteFile(filepath.Join(root, "dir/both"), []byte("container"), 0o644))

	var out bytes.Buffer
	deleted, err := r.Changes(t.Context(), pod, id, image, &out)
	ok(t, err)
	if want := []string{"/dir/old", "/dir/sub", "/only-1"}; !slices.Equal(deleted, want) {
		t.Errorf("deleted are %v, want %v", deleted, want)
	}
	found := map[string]*tar.Header{}
	for in := tar.NewReader(&out); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		ok(t, err)
		found[h.Name] = h
	}
	if len(found) != 5 {
		t.Errorf("%d entries: %v", len(found), found)
	}
	if h := found["new"]; h == nil || h.Size != 9 || h.Mode != 0o640 || h.PAXRecords["SCHILY.xattr.user.mine"] != "yes" {
		t.Errorf("new: %+v", h)
	}
	if h := found["twin"]; h == nil || h.Typeflag != tar.TypeLink || h.Linkname != "new" {
		t.Errorf("twin: %+v", h)
	}
	if h := found["link"]; h == nil || h.Linkname != "new" || h.Typeflag != tar.TypeSymlink {
		t.Errorf("link: %+v", h)
	}
}

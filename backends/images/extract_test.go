package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.podman.io/storage/pkg/archive"
	"golang.org/x/sys/unix"
)

// byLibraryAlone is what extract would do without any code of its own.
func byLibraryAlone(dir string, stream io.Reader) error {
	return inRoot(dir, func() error { return archive.Unpack(stream, "/", unpackOptions) })
}

// asTheLibrary checks that a tar becomes the same tree by both.
func asTheLibrary(t *testing.T, plain []byte) {
	t.Helper()
	outer := t.TempDir()
	ours, theirs := filepath.Join(outer, "ours"), filepath.Join(outer, "theirs")
	for _, dir := range []string{ours, theirs} {
		ok(t, os.Mkdir(dir, 0o555))
	}
	ourErr, theirErr := extract(ours, bytes.NewReader(plain)), byLibraryAlone(theirs, bytes.NewReader(plain))
	if (ourErr == nil) != (theirErr == nil) {
		t.Fatalf("extract: %v; the library: %v", ourErr, theirErr)
	}
	if ourErr != nil {
		return
	}
	if got, want := treeOf(t, ours), treeOf(t, theirs); got != want {
		t.Fatalf("extract made\n%s\nthe library\n%s", got, want)
	}
}

// treeOf is all there is to a tree, but times of access.
func treeOf(t *testing.T, root string) string {
	t.Helper()
	var tree strings.Builder
	inodes := map[uint64]string{}
	ok(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		fmt.Fprintf(&tree, "%q %o %d:%d dev %d", name, st.Mode, st.Uid, st.Gid, st.Rdev)
		if st.Mtim.Sec < time.Now().Unix()-3600 { // what the archive does not name has been made just now
			fmt.Fprintf(&tree, " at %d.%d", st.Mtim.Sec, st.Mtim.Nsec)
		}
		if first, seen := inodes[st.Ino]; seen {
			fmt.Fprintf(&tree, " is %q", first)
		} else if st.Nlink > 1 && st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			inodes[st.Ino] = name
		}
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&tree, " %x", data)
		case syscall.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&tree, " -> %q", target)
		}
		names := make([]byte, 4096)
		n, _ := unix.Llistxattr(path, names)
		for _, attr := range strings.FieldsFunc(string(names[:max(n, 0)]), func(r rune) bool { return r == 0 }) {
			value := make([]byte, 4096)
			n, _ := unix.Lgetxattr(path, attr, value)
			fmt.Fprintf(&tree, " %s=%q", attr, value[:max(n, 0)])
		}
		tree.WriteByte('\n')
		return nil
	}))
	return tree.String()
}

func TestExtractMakesWhatTheLibraryMakes(t *testing.T) {
	for name, entries := range map[string][]entry{
		"plain":                {folder("d"), file("d/f", "x"), link(tar.TypeSymlink, "d/l", "f"), file("e", "")},
		"parents left out":     {file("a/b/c", "x"), link(tar.TypeSymlink, "x/y/z", "../a"), folder("p/q")},
		"through a link":       {folder("usr/lib"), link(tar.TypeSymlink, "lib", "usr/lib"), file("lib/f", "x"), link(tar.TypeSymlink, "abs", "/usr"), file("abs/lib/g", "y"), folder("lib/d")},
		"through no link":      {link(tar.TypeSymlink, "lib", "usr/lib"), file("lib/f", "x"), folder("lib/d")},
		"twice":                {file("f", "one"), file("f", "two"), folder("f"), file("f/g", "x"), link(tar.TypeSymlink, "f", "g"), folder("d"), folder("d")},
		"a link, then a file":  {file("t", "target"), link(tar.TypeSymlink, "f", "t"), file("f", "new")},
		"hard links":           {file("f", "x"), link(tar.TypeLink, "g", "f"), link(tar.TypeSymlink, "s", "f"), link(tar.TypeLink, "h", "s")},
		"whiteouts":            {folder("d"), file("d/.wh..wh..opq", ""), file(".wh.f", ""), file("d/.wh.g", ""), file("d/after", "x")},
		"attributes":           {attribute(file("f", "x"), "user.a", "b"), attribute(folder("d"), "user.c", "d"), file("d/f", "y"), attribute(file("p", "x"), "security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")},
		"devices":              {entry{tar.Header{Typeflag: tar.TypeChar, Name: "c", Mode: 0o622, Devmajor: 1, Devminor: 3}, ""}, entry{tar.Header{Typeflag: tar.TypeFifo, Name: "p", Mode: 0o600}, ""}, file("after", "x")},
		"modes and owners":     {entry{tar.Header{Typeflag: tar.TypeReg, Name: "su", Mode: 0o6755, Uid: 7, Gid: 8, Size: 1}, "x"}, entry{tar.Header{Typeflag: tar.TypeDir, Name: "tmp", Mode: 0o1777, Uid: 70000, Gid: 3}, ""}, entry{tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "su", Uid: 5, Gid: 6}, ""}},
		"its root":             {entry{tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o750, Uid: 1, Gid: 2}, ""}, file("./f", "x"), folder("./d")},
		"odd names":            {file("a//b/./c", "x"), file("/abs", "y"), file("d/../e", "z"), file("\xff\xfe", "raw"), file(strings.Repeat("l", 200), "long"), folder("sp ace/")},
		"out of it":            {file("../f", "x")},
		"out of it by a link":  {link(tar.TypeSymlink, "l", "../../.."), file("l/etc/f", "x"), link(tar.TypeLink, "h", "../f")},
		"sizes around a block": {file("a", strings.Repeat("x", 511)), attribute(file("b", strings.Repeat("y", 513)), "user.a", "b"), file("c", strings.Repeat("z", 512)), link(tar.TypeLink, "d", "c"), file("e", "end")},
	} {
		t.Run(name, func(t *testing.T) { asTheLibrary(t, tarred(t, entries...)) })
	}
	t.Run("sparse", func(t *testing.T) {
		asTheLibrary(t, sparseTar("hole", "1048576", "1\n1048572\n4\n", "end!"))
	})
}

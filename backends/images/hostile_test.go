package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/pkg/compression"
	"golang.org/x/sys/unix"
)

// entry is one of a tar; its content is its body.
type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry { return entry{tar.Header{Name: name, Mode: 0o644}, body} }

func link(kind byte, name, target string) entry {
	return entry{tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o777}, ""}
}

func folder(name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, ""}
}

func attribute(e entry, key, value string) entry {
	e.Format, e.PAXRecords = tar.FormatPAX, map[string]string{"SCHILY.xattr." + key: value}
	return e
}

func tarred(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	for _, e := range entries {
		if e.ModTime.IsZero() {
			e.ModTime = time.Unix(1, 0)
		}
		if e.Size = int64(len(e.body)); e.Typeflag == 0 {
			e.Typeflag = tar.TypeReg
		}
		ok(t, w.WriteHeader(&e.Header))
		_, err := io.WriteString(w, e.body)
		ok(t, err)
	}
	ok(t, w.Close())
	return plain.Bytes()
}

func zipped(t testing.TB, plain []byte) packed {
	t.Helper()
	var blob bytes.Buffer
	w := gzip.NewWriter(&blob)
	_, err := w.Write(plain)
	ok(t, errors.Join(err, w.Close()))
	return packed{diffID: digest.FromBytes(plain), blob: blob.Bytes(), suffix: "+gzip"}
}

// hostileNode is a store with what a layer must not touch beside it.
type hostileNode struct {
	*Store
	reg    *registry
	canary string
}

func newHostileNode(t *testing.T) *hostileNode {
	t.Helper()
	n := &hostileNode{reg: startRegistry(t, registryOptions{})}
	n.Store = open(t, n.reg, nil)
	n.canary = filepath.Join(filepath.Dir(n.cfg.GraphRoot), "canary")
	write(t, n.canary, []byte("untouched"))
	return n
}

// pull gives the directories of the image's layers, the uppermost first.
func (n *hostileNode) pull(t *testing.T, layers ...packed) ([]string, error) {
	t.Helper()
	ref := spec{repo: "hostile/" + conformance.ID(t)[:12], tag: "one", layers: layers}
	n.reg.push(t, ref)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	image, err := conformance.Pull(ctx, n.Store, ask(n.reg.addr+"/"+ref.repo+":one"))
	n.checkCanary(t)
	if err != nil {
		wantNothing(t, n.Store)
		return nil, err
	}
	dirs, err := n.LayerDirs(ctx, image.ID)
	ok(t, err)
	ok(t, n.Remove(ctx, image.ID)) // the directories of others are not this test's
	return dirs, nil
}

func (n *hostileNode) checkCanary(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile(n.canary)
	if err != nil || string(data) != "untouched" {
		t.Errorf("the file beside the store: %q, %v", data, err)
	}
	for _, gone := range []string{"/troupe-escaped", filepath.Dir(n.cfg.GraphRoot) + "/troupe-escaped", n.cfg.GraphRoot + "/troupe-escaped"} {
		if _, err := os.Lstat(gone); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was made", gone)
		}
	}
}

func wantRefused(t *testing.T, err error, kind messages.Kind, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("the layer was taken")
	}
	if got := messages.KindOf(err); got != kind {
		t.Errorf("kind %v, want %v: %v", got, kind, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%.2000q does not say %q", err, w)
		}
	}
}

func TestNoEntryOfALayerLeadsOutOfIt(t *testing.T) {
	n := newHostileNode(t)
	up := strings.Repeat("../", 30)
	for name, entries := range map[string][]entry{
		"an absolute path":                {file("/troupe-escaped", "x")},
		"a path with ..":                  {file(up+"troupe-escaped", "x")},
		"a path with .. inside":           {file("a/"+up+"troupe-escaped", "x")},
		"a file through an absolute link": {link(tar.TypeSymlink, "a", "/"), file("a/troupe-escaped", "x")},
		"a file through a climbing link":  {link(tar.TypeSymlink, "a", up), file("a/troupe-escaped", "x")},
		"a file over a link":              {link(tar.TypeSymlink, "a", n.canary), file("a", "x")},
		"a directory over a link":         {link(tar.TypeSymlink, "a", filepath.Dir(n.canary)), folder("a"), file("a/canary", "x")},
		"a mode through a link":           {link(tar.TypeSymlink, "a", n.canary), entry{tar.Header{Typeflag: tar.TypeLink, Name: "b", Linkname: "a", Mode: 0o777}, ""}},
		"a hard link outside":             {link(tar.TypeLink, "a", n.canary), file("a", "x")},
		"a hard link climbing":            {link(tar.TypeLink, "a", up+n.canary), file("a", "x")},
		"a hard link through a link":      {link(tar.TypeSymlink, "d", filepath.Dir(n.canary)), link(tar.TypeLink, "a", "d/canary"), file("a", "x")},
		"the root as a link":              {link(tar.TypeSymlink, ".", "/"), file("troupe-escaped", "x")},
		"the root as a link, named /":     {link(tar.TypeSymlink, "/", "/"), file("troupe-escaped", "x")},
		"a whiteout of ..":                {file("a/.wh...", "")},
		"a whiteout of .":                 {file("a/.wh..", "")},
		"a whiteout through a link":       {link(tar.TypeSymlink, "a", filepath.Dir(n.canary)), file("a/.wh.canary", "")},
		"a whiteout named for a path":     {file("a/.wh."+up+n.canary, "")},
		"an opaque mark through a link":   {link(tar.TypeSymlink, "a", filepath.Dir(n.canary)), file("a/.wh..wh..opq", "")},
		"an opaque mark of the parent":    {file("../.wh..wh..opq", "")},
		"an opaque mark that is a link":   {link(tar.TypeSymlink, ".wh..wh..opq", n.canary), file(".wh..wh..opq", "x")},
		"a parent replaced by a link":     {folder("a"), folder("a/b"), link(tar.TypeSymlink, "a", filepath.Dir(n.canary)), file("a/canary", "x")},
		"times through a replaced parent": {folder("a/canary"), link(tar.TypeSymlink, "a", filepath.Dir(n.canary))},
		"a name of the store":             {file("link", "x"), file("lower", "x"), file("../link", "x"), file("../../l/X", "x")},
		"a hard link of the root":         {link(tar.TypeLink, "a", "/")},
		"aufs's links":                    {file(".wh..wh.plnk/x", "x"), link(tar.TypeLink, "a", ".wh..wh.plnk/../../canary")},
	} {
		t.Run(name, func(t *testing.T) {
			before, err := os.Lstat(n.canary)
			ok(t, err)
			_, err = n.pull(t, zipped(t, tarred(t, entries...)))
			t.Logf("%v", err) // refused or kept inside: both are well
			after, err := os.Lstat(n.canary)
			ok(t, err)
			if !after.ModTime().Equal(before.ModTime()) || after.Mode() != before.Mode() {
				t.Errorf("the file beside the store is now %v %v", after.Mode(), after.ModTime())
			}
		})
	}
}

func TestWhatLayersMayHoldIsKept(t *testing.T) {
	n := newHostileNode(t)
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	entries := []entry{
		{tar.Header{Name: "setuid", Mode: 0o4755}, "x"},
		attribute(file("ping", "x"), "security.capability", capability),
		attribute(folder("store"), "user.overlay.opaque", "y"),
		{tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o600}, ""},
		{tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 8, Devminor: 0, Mode: 0o666}, ""},
		file("deep/.wh.gone", ""), file("opaque/.wh..wh..opq", ""),
		file("lower", "a file"), file("link", "named like the store's own"),
	}
	plain := tarred(t, entries...)
	layer := zipped(t, plain)
	ref := spec{repo: "kept", tag: "one", layers: []packed{layer}}
	n.reg.push(t, ref)
	image := pull(t, n.Store, ask(n.reg.addr+"/kept:one"))
	dirs, err := n.LayerDirs(context.Background(), image.ID)
	ok(t, err)
	stat := func(name string) unix.Stat_t {
		var st unix.Stat_t
		ok(t, unix.Lstat(filepath.Join(dirs[0], name), &st))
		return st
	}
	value := make([]byte, 64)
	has := func(name, key, want string) {
		t.Helper()
		if got, err := unix.Lgetxattr(filepath.Join(dirs[0], name), key, value); err != nil || string(value[:got]) != want {
			t.Errorf("%s of %s: %q, %v", key, name, value[:max(got, 0)], err)
		}
	}
	has("ping", "security.capability", capability)
	has("store", "user.overlay.opaque", "y")
	has("opaque", "trusted.overlay.opaque", "y")
	for name, want := range map[string]uint32{
		"setuid": unix.S_IFREG | 0o4755, "fifo": unix.S_IFIFO | 0o600, "disk": unix.S_IFBLK | 0o666,
		"deep/gone": unix.S_IFCHR, "lower": unix.S_IFREG | 0o644,
	} {
		if st := stat(name); st.Mode != want {
			t.Errorf("%s has mode %o, want %o", name, st.Mode, want)
		}
	}
	diff, err := n.store.Diff("", layer.diffID.Encoded(), nil)
	ok(t, err)
	defer diff.Close()
	again, _, err := compression.AutoDecompress(diff)
	ok(t, err)
	defer again.Close()
	if got, err := digest.FromReader(again); err != nil || got != layer.diffID {
		t.Errorf("the store gives the layer back as %s, it was %s", got, layer.diffID)
	}
}

func TestALayerWithOverlaysOwnAttributesIsRefused(t *testing.T) {
	n := newHostileNode(t)
	for _, key := range []string{"opaque", "redirect", "metacopy", "origin", "whiteout", "overlay.opaque"} {
		for _, e := range []entry{file("f", "x"), folder("d")} {
			_, err := n.pull(t, zipped(t, tarred(t, attribute(e, "trusted.overlay."+key, "/etc"))))
			wantRefused(t, err, messages.Precondition, e.Name, "trusted.overlay")
		}
	}
}

// The attributes are in its table of contents, from which the library makes
// the files.
func TestAChunkedLayerWithOverlaysOwnAttributesIsRefused(t *testing.T) {
	n := newHostileNode(t)
	for _, e := range []entry{file("f", "x"), folder("d")} {
		plain := tarred(t, attribute(e, "trusted.overlay.redirect", "/etc"), file("other", "x"))
		_, err := n.pull(t, chunkedOf(t, packed{diffID: digest.FromBytes(plain), blob: plain}))
		wantRefused(t, err, messages.Precondition, e.Name, "has the attribute", "trusted.overlay")
	}
}

func TestHeadersWithoutEndAreRefused(t *testing.T) {
	n := newHostileNode(t)
	pax := func(size int) []byte { return paxBlock("comment", strings.Repeat("c", size)) }
	many := bytes.Repeat(pax(900<<10), 40)
	directories := make([]byte, 0, 80<<20)
	for i := range 80 {
		directories = append(append(directories, pax(900<<10)...), block(tar.TypeDir, "d"+digits(i), 0, "")...)
	}
	for name, c := range map[string]struct {
		plain []byte
		kind  messages.Kind
		word  string
	}{
		"one of 1 GB":                   {append(block('x', "h", 1<<30, ""), make([]byte, 3<<20)...), messages.Internal, "too long"},
		"many of 900 KB before a file":  {many, messages.Precondition, "entry 1 has headers of more than"},
		"one of 900 KB each directory":  {directories, messages.Precondition, "headers have more than"},
		"long names before a file":      {bytes.Repeat(block('L', "l", 900<<10, strings.Repeat("n", 900<<10)), 40), messages.Precondition, "entry 1 has headers"},
		"zeros after the archive's end": {make([]byte, 80<<20), messages.Precondition, "follow its end"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := n.pull(t, zipped(t, c.plain))
			wantRefused(t, err, c.kind, c.word)
		})
	}
}

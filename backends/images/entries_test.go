package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

type entry struct {
	tar.Header
	body string
}

func layerOfEntries(t *testing.T, entries []entry) packed {
	t.Helper()
	var out, blob bytes.Buffer
	w := tar.NewWriter(&out)
	for i := range entries {
		h := &entries[i].Header
		h.Size, h.ModTime = int64(len(entries[i].body)), time.Unix(1, 0)
		ok(t, w.WriteHeader(h))
		_, err := io.WriteString(w, entries[i].body)
		ok(t, err)
	}
	ok(t, w.Close())
	z := gzip.NewWriter(&blob)
	_, err := z.Write(out.Bytes())
	ok(t, err)
	ok(t, z.Close())
	return packed{diffID: digest.FromBytes(out.Bytes()), blob: blob.Bytes(), suffix: "+gzip"}
}

// rich is a layer with everything a layer can have.
func rich(t *testing.T) packed {
	t.Helper()
	return layerOfEntries(t, []entry{
		{Header: tar.Header{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "bin/su", Mode: 0o4755, Uid: 3, Gid: 4}, body: "some program"},
		{Header: tar.Header{Typeflag: tar.TypeLink, Name: "bin/also", Linkname: "bin/su", Mode: 0o4755, Uid: 3, Gid: 4}},
		{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/link", Linkname: "su"}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "empty", Mode: 0o600}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "attr", Mode: 0o644, PAXRecords: map[string]string{"SCHILY.xattr.trusted.what": "this"}}, body: "x"},
		{Header: tar.Header{Typeflag: tar.TypeChar, Name: "dev", Mode: 0o600, Devmajor: 1, Devminor: 3}},
		{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o600}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "gone/.wh.it"}},
		{Header: tar.Header{Typeflag: tar.TypeDir, Name: "hides/", Mode: 0o755}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "hides/.wh..wh..opq"}},
		{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "way", Linkname: "/bin"}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "way/there", Mode: 0o644}, body: "by a link"},
	})
}

package harness

import (
	"archive/tar"
	"bytes"
	"time"
)

// Layer is a layer of an image in the making; its zero value is empty. Paths
// are without leading slash. Writes go to memory and cannot fail; it panics if
// the archive is malformed, which is a mistake of the caller's.
type Layer struct {
	buf    bytes.Buffer
	tar    *tar.Writer
	closed bool
}

// Dir adds a directory that all may read; below tmp all may write.
func (l *Layer) Dir(name string) {
	mode := int64(0o755)
	if name == "tmp" {
		mode = 0o1777
	}
	l.add(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
}

// File adds a file; mode may have the set-user-id bit (04000).
func (l *Layer) File(name string, content []byte, mode int64) {
	l.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, content)
}

// Symlink adds a symbolic link.
func (l *Layer) Symlink(name, to string) {
	l.add(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}, nil)
}

// HardLink adds another name for a file that the layer has already.
func (l *Layer) HardLink(name, to string) {
	l.add(tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o755}, nil)
}

// Device adds a device that everybody may read and write: tar.TypeBlock or
// tar.TypeChar.
func (l *Layer) Device(kind byte, name string, major, minor int64) {
	l.add(tar.Header{Typeflag: kind, Name: name, Devmajor: major, Devminor: minor, Mode: 0o666}, nil)
}

func (l *Layer) add(h tar.Header, content []byte) {
	if l.tar == nil {
		l.tar = tar.NewWriter(&l.buf)
	}
	h.ModTime, h.Size = time.Unix(1767225600, 0), int64(len(content))
	if err := l.tar.WriteHeader(&h); err != nil {
		panic(err)
	}
	if _, err := l.tar.Write(content); err != nil {
		panic(err)
	}
}

// done is the finished archive; a layer may be used in several images.
func (l *Layer) done() []byte {
	if l.tar == nil {
		l.tar = tar.NewWriter(&l.buf)
	}
	if !l.closed {
		if err := l.tar.Close(); err != nil {
			panic(err)
		}
		l.closed = true
	}
	return l.buf.Bytes()
}

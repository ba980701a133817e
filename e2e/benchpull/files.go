package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// file is a file of the machine's, to make layers of.
type file struct {
	path  string
	size  int
	order [sha256.Size]byte // of the directory
}

// deck hands out files of /usr, each once, directory by directory as packages
// would bring them, but the directories in an order that has nothing to do with
// where they are: so the layers are mixtures of programs, libraries and text,
// the same ones each time on the same machine.
type deck struct{ files []file }

// biggest is left out above this size: one file could be half a layer.
const biggest = 16 << 20

func newDeck() (*deck, error) {
	d := &deck{}
	err := filepath.WalkDir("/usr", func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if info, err := e.Info(); err == nil && info.Size() <= biggest {
			d.files = append(d.files, file{path, int(info.Size()), sha256.Sum256([]byte(filepath.Dir(path)))})
		}
		return nil // gone meanwhile is as good as never there
	})
	slices.SortFunc(d.files, func(a, b file) int { return cmp.Or(bytes.Compare(a.order[:], b.order[:]), cmp.Compare(a.path, b.path)) })
	return d, err
}

// take is a list of files for each size: the next ones, of about so many bytes.
func (d *deck) take(sizes ...int) (all [][]file) {
	for _, size := range sizes {
		n, total := 0, 0
		for ; n < len(d.files) && total < size; n++ {
			total += d.files[n].size
		}
		all = append(all, d.files[:n:n])
		d.files = d.files[n:]
	}
	return all
}

// missing is an error when it was not enough.
func (d *deck) missing() error {
	if len(d.files) == 0 {
		return errors.New("/usr has too few files to make the images of: 600 MB are needed, not counting large ones")
	}
	return nil
}

// tarOf is the tar of files as an image has them: directories first, root's.
func tarOf(files []file) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	made := map[string]bool{"/": true}
	for _, f := range slices.SortedFunc(slices.Values(files), func(a, b file) int { return cmp.Compare(a.path, b.path) }) {
		if err := addParents(w, filepath.Dir(f.path), made); err != nil {
			return nil, err
		}
		content, err := os.ReadFile(f.path)
		if err != nil {
			return nil, err
		}
		info, err := os.Stat(f.path)
		if err != nil {
			return nil, err
		}
		h := &tar.Header{
			Typeflag: tar.TypeReg, Name: f.path[1:], Mode: int64(info.Mode().Perm()),
			Size: int64(len(content)), ModTime: info.ModTime().Truncate(time.Second),
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

func addParents(w *tar.Writer, dir string, made map[string]bool) error {
	if made[dir] {
		return nil
	}
	if err := addParents(w, filepath.Dir(dir), made); err != nil {
		return err
	}
	made[dir] = true
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir[1:] + "/", Mode: 0o755, ModTime: time.Unix(1767225600, 0)})
}

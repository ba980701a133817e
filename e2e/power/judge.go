package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/archive"
)

// judge looks at a store at rest with nothing but the storage library: none of
// Troupe's own code says here whether Troupe's store is sound. Every recorded
// layer must give back the very archive of its DiffID, every file must be on
// disk as that archive has it (the archive is put together from the files'
// contents and a record of the rest), every image must be complete.
func judge(root, run string) (*Findings, error) {
	store, err := storage.GetStore(storage.StoreOptions{
		GraphRoot: root, RunRoot: run, GraphDriverName: "overlay", GraphDriverOptions: []string{"overlay.skip_mount_home=true"},
	})
	if err != nil {
		return nil, err
	}
	defer store.Free()
	f := &Findings{Images: map[string]string{}}
	bad := func(format string, args ...any) { f.Corrupt = append(f.Corrupt, fmt.Sprintf(format, args...)) }
	layers, err := store.Layers()
	if err != nil {
		return nil, err
	}
	f.Layers = len(layers)
	known := map[string]storage.Layer{}
	for _, l := range layers {
		known[l.ID] = l
		if err := soundLayer(store, l); err != nil {
			bad("layer %s: %v", l.ID, err)
		}
	}
	images, err := store.Images()
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, i := range images {
		for _, name := range i.Names {
			f.Images[name] = i.ID
		}
		if err := soundImage(store, i, known, used); err != nil {
			bad("image %v: %v", i.Names, err)
		}
	}
	f.Left, err = leftovers(root, known, used, images)
	if err != nil {
		return nil, err
	}
	if f.Cached, err = files(root + "/troupe-blobs"); err != nil {
		return nil, err
	}
	for _, name := range entries(root + "/troupe-staged") {
		f.Cached = append(f.Cached, "staged "+name)
	}
	return f, nil
}

// soundLayer compares a layer with its DiffID.
func soundLayer(store storage.Store, l storage.Layer) error {
	if l.UncompressedDigest == "" || l.CompressedDigest == "" {
		return fmt.Errorf("is recorded with DiffID %q and blob %q", l.UncompressedDigest, l.CompressedDigest)
	}
	driver, err := store.GraphDriver()
	if err != nil {
		return err
	}
	metadata, err := driver.Metadata(l.ID)
	if err != nil {
		return err
	}
	plain := archive.Uncompressed
	stream, err := store.Diff("", l.ID, &storage.DiffOptions{Compression: &plain})
	if err != nil {
		return err
	}
	defer stream.Close()
	hash := sha256.New()
	both := io.TeeReader(stream, hash)
	archived := tar.NewReader(both)
	seen := map[string]bool{".": true}
	for {
		h, err := archived.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("its archive: %w", err)
		}
		if err := soundFile(metadata["UpperDir"], h, seen); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, both); err != nil {
		return fmt.Errorf("its archive: %w", err)
	}
	if got := fmt.Sprintf("sha256:%x", hash.Sum(nil)); got != l.UncompressedDigest.String() {
		return fmt.Errorf("its content is %s, recorded is %s", got, l.UncompressedDigest)
	}
	return filepath.WalkDir(metadata["UpperDir"], func(p string, _ fs.DirEntry, err error) error {
		if name, relative := filepath.Rel(metadata["UpperDir"], p); err == nil && relative == nil && !seen[name] {
			return fmt.Errorf("%s is on disk and not in its archive", name)
		}
		return err
	})
}

// soundFile compares what is on disk with the archive's header.
func soundFile(dir string, h *tar.Header, seen map[string]bool) error {
	name := path.Clean(h.Name)
	white, isWhiteout := strings.CutPrefix(path.Base(name), archive.WhiteoutPrefix)
	if isWhiteout {
		name = path.Join(path.Dir(name), white)
	}
	for p := name; p != "."; p = path.Dir(p) { // directories that the archive only implies are there too
		seen[p] = true
	}
	info, err := os.Lstat(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	if isWhiteout {
		if st.Mode&syscall.S_IFMT != syscall.S_IFCHR || st.Rdev != 0 {
			return fmt.Errorf("%s is %s and not a whiteout", name, info.Mode())
		}
		return nil
	}
	want := h.FileInfo()
	if info.Mode() != want.Mode() {
		return fmt.Errorf("%s is %s, want %s", name, info.Mode(), want.Mode())
	}
	if int(st.Uid) != h.Uid || int(st.Gid) != h.Gid {
		return fmt.Errorf("%s is of %d:%d, want %d:%d", name, st.Uid, st.Gid, h.Uid, h.Gid)
	}
	if info.Mode().IsRegular() && h.Typeflag == tar.TypeReg && info.Size() != h.Size {
		return fmt.Errorf("%s has %d bytes, want %d", name, info.Size(), h.Size)
	}
	if h.Typeflag == tar.TypeSymlink {
		if target, err := os.Readlink(filepath.Join(dir, name)); err != nil || target != h.Linkname {
			return fmt.Errorf("%s leads to %q, want %q: %w", name, target, h.Linkname, err)
		}
		return nil
	}
	if !info.ModTime().Equal(h.ModTime) {
		return fmt.Errorf("%s is of %s, want %s", name, info.ModTime(), h.ModTime)
	}
	return nil
}

// soundImage compares an image's layers and documents with its configuration.
func soundImage(store storage.Store, i storage.Image, known map[string]storage.Layer, used map[string]bool) error {
	var chain []string // DiffIDs, the uppermost first
	for id := i.TopLayer; id != ""; {
		l, ok := known[id]
		if !ok {
			return fmt.Errorf("its layer %s is not there", id)
		}
		used[id] = true
		chain, id = append(chain, l.UncompressedDigest.String()), l.Parent
	}
	for _, key := range i.BigDataNames {
		data, err := store.ImageBigData(i.ID, key)
		if err != nil {
			return fmt.Errorf("its document %s: %w", key, err)
		}
		if recorded := i.BigDataDigests[key]; digest.FromBytes(data) != recorded {
			return fmt.Errorf("its document %s is %s, recorded is %s", key, digest.FromBytes(data), recorded)
		}
	}
	data, err := store.ImageBigData(i.ID, "sha256:"+i.ID)
	if err != nil {
		return fmt.Errorf("its configuration: %w", err)
	}
	var config ispec.Image
	if err := json.Unmarshal(data, &config); err != nil || digest.FromBytes(data).Encoded() != i.ID {
		return fmt.Errorf("its configuration is %s (%w)", digest.FromBytes(data), err)
	}
	want := config.RootFS.DiffIDs
	if len(chain) != len(want) {
		return fmt.Errorf("it has %d layers, want %d", len(chain), len(want))
	}
	for n, d := range want {
		if chain[len(chain)-1-n] != d.String() {
			return fmt.Errorf("its layer %d has DiffID %s, want %s", n, chain[len(chain)-1-n], d)
		}
	}
	if _, err := store.ImageBigData(i.ID, storage.ImageDigestBigDataKey); err != nil {
		return fmt.Errorf("its manifest: %w", err)
	}
	return nil
}

// leftovers are layers of no image, and files of the store's that belong to
// nothing that is recorded.
func leftovers(root string, known map[string]storage.Layer, used map[string]bool, images []storage.Image) (left []string, err error) {
	for id := range known {
		if !used[id] {
			left = append(left, "layer "+id+" of no image")
		}
	}
	isImage := map[string]bool{}
	for _, i := range images {
		isImage[i.ID] = true
	}
	look := func(dir string, belongs func(os.DirEntry) bool) {
		entries, e := os.ReadDir(filepath.Join(root, dir))
		if e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
		for _, entry := range entries {
			if !belongs(entry) {
				left = append(left, path.Join(dir, entry.Name()))
			}
		}
	}
	none := func(os.DirEntry) bool { return false }
	look("overlay", func(e os.DirEntry) bool { return known[e.Name()].ID != "" || len(e.Name()) != 64 })
	look("overlay/staging", none)
	look("overlay/tempdirs", none)
	look("overlay/l", func(e os.DirEntry) bool {
		_, err := os.Stat(filepath.Join(root, "overlay/l", e.Name()))
		return err == nil
	})
	look("overlay-layers", func(e os.DirEntry) bool {
		id, _, isData := strings.Cut(e.Name(), ".tar-split")
		// The records, their lock, and what records leave half-written is not of a layer.
		return known[id].ID != "" || (!isData && len(id) != 64 && !strings.HasPrefix(id, ".tmp"))
	})
	look("overlay-images", func(e os.DirEntry) bool {
		return isImage[e.Name()] || !e.IsDir() && !strings.HasPrefix(e.Name(), ".tmp")
	})
	return left, err
}

// files are those in and below a directory.
func files(dir string) (found []string, err error) {
	err = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			found = append(found, strings.TrimPrefix(p, dir+"/"))
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return found, err
}

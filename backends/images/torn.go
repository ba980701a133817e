package images

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.podman.io/storage"
	"golang.org/x/sys/unix"
)

// tornAge is longer than any write of the store's records takes.
const tornAge = time.Hour

// dropTornImages removes images without a name whose data is not all there: a
// power cut came before Commit gave them their names.
func (s *Store) dropTornImages() error {
	records, err := s.store.Images()
	if err != nil {
		return storeError(err, "looking for torn images")
	}
	for _, record := range records {
		if len(record.Names) > 0 || record.ReadOnly || s.allData(&record) {
			continue
		}
		s.log.Info("removed the record of an interrupted pull", "image", record.ID)
		if _, err := s.store.DeleteImage(record.ID, true); err != nil {
			s.log.Warn("the record of an interrupted pull stays", "image", record.ID, "error", err)
		}
	}
	return nil
}

// allData: a record is written before its data, and again after each piece.
func (s *Store) allData(record *storage.Image) bool {
	if !slices.Contains(record.BigDataNames, storage.ImageDigestBigDataKey) {
		// Unless another tool is writing it just now.
		info, err := os.Stat(s.dataDir(record.ID))
		return err == nil && beingWritten(info)
	}
	for _, key := range record.BigDataNames {
		if _, err := s.store.ImageBigData(record.ID, key); err != nil {
			return false
		}
	}
	return true
}

// torn finds what a power cut or a kill has left and the library never looks
// for: temporary files of its atomic writer, data without a record, and links
// to layers that have gone (it removes the link of a layer by a file in the
// layer, which a power cut may have emptied).
func (s *Store) torn() (left []string) {
	for pattern, isTorn := range map[string]func(path string, info fs.FileInfo) bool{
		"overlay-layers/.tmp-*": isFile,
		"overlay-images/.tmp-*": isFile,
		"overlay-images/*": func(path string, info fs.FileInfo) bool {
			_, err := s.store.Image(filepath.Base(path))
			return info.IsDir() && errors.Is(err, storage.ErrImageUnknown)
		},
		"overlay/l/*": func(path string, info fs.FileInfo) bool {
			to, err := os.Readlink(path) // ../<layer>/diff
			if err != nil {
				return false
			}
			_, err = os.Lstat(filepath.Dir(filepath.Join(filepath.Dir(path), to)))
			return errors.Is(err, fs.ErrNotExist)
		},
	} {
		found, _ := filepath.Glob(filepath.Join(s.imageRoot(), pattern))
		for _, path := range found {
			if info, err := os.Lstat(path); err == nil && isTorn(path, info) && !beingWritten(info) {
				left = append(left, path)
			}
		}
	}
	return left
}

func isFile(_ string, info fs.FileInfo) bool { return info.Mode().IsRegular() }

// beingWritten: maybe, by another tool, just now.
func beingWritten(info fs.FileInfo) bool {
	return info.ModTime().After(bootTime()) && time.Since(info.ModTime()) < tornAge
}

func bootTime() time.Time {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(up.Nano()))
}

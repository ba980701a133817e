package images

import (
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
		info, err := os.Stat(filepath.Join(s.imageRoot(), "overlay-images", record.ID))
		return err == nil && info.ModTime().After(bootTime()) && time.Since(info.ModTime()) < tornAge
	}
	for _, key := range record.BigDataNames {
		if _, err := s.store.ImageBigData(record.ID, key); err != nil {
			return false
		}
	}
	return true
}

// torn finds the temporary files of the library's atomic writer that a power
// cut or a kill has left; it never looks for them itself.
func (s *Store) torn() []string {
	var left []string
	for _, dir := range []string{"overlay-layers", "overlay-images"} {
		found, _ := filepath.Glob(filepath.Join(s.imageRoot(), dir, ".tmp-*"))
		for _, path := range found {
			if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() &&
				(info.ModTime().Before(bootTime()) || time.Since(info.ModTime()) > tornAge) {
				left = append(left, path)
			}
		}
	}
	return left
}

func bootTime() time.Time {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(up.Nano()))
}

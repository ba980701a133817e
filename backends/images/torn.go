package images

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// tornAge is longer than any write of the store's records takes.
const tornAge = time.Hour

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

package images

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// checkAttributes looks at the files of a layer that the library has made of a
// table of contents, which has attributes of its own: see overlayMark. The one
// that the library writes for an opaque directory may be there.
func checkAttributes(dir string) error {
	prefix := strings.TrimPrefix(overlayMark, paxAttribute)
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n, err := unix.Llistxattr(path, list)
		if err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("attributes of %s: %w", path, err)
		}
		for name := range bytes.SplitSeq(list[:max(n, 0)], []byte{0}) {
			if strings.HasPrefix(string(name), prefix) && string(name) != prefix+"opaque" {
				return refuse("%.256q has the attribute %.256q, which is overlayfs's own", strings.TrimPrefix(path, dir), name)
			}
		}
		return nil
	})
}

package backends

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// MaxFile is how big a file of our own may be, in bytes: a record holds what a
// client asked for, so it is not small by nature, and all are read at the start.
const MaxFile = 32 << 20

// ReadFile reads a file of our own, whatever has come to lie in its place since:
// it follows no link, waits for no pipe, and takes no more than MaxFile. What is
// not a file is an error like any other damage.
func ReadFile(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link", path)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file but %s", path, info.Mode().Type())
	}
	if info.Size() > MaxFile {
		return nil, fmt.Errorf("%s has %d MiB; none of ours has more than %d", path, info.Size()>>20, MaxFile>>20)
	}
	return io.ReadAll(io.LimitReader(f, MaxFile+1))
}

package images

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/docker/reference"
	"golang.org/x/sys/unix"
)

// takeAuth takes the auth file that CRI-O's credential provider has left for
// one pull in a namespace: <dir>/<namespace>-<SHA-256 of the repository>.json.
// It is gone from the disk once this has returned; the library, which asks for
// a path whenever it meets another mirror, reads it from memory for as long as
// the file is open. Nil: there is none.
func (r *rules) takeAuth(namespace, ref string) (*os.File, error) {
	if r.AuthDir == "" || namespace == "" {
		return nil, nil
	}
	if err := fileName(namespace); err != nil {
		return nil, err
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, invalidReference(ref, err)
	}
	path := filepath.Join(r.AuthDir, fmt.Sprintf("%s-%x.json", namespace, sha256.Sum256([]byte(named.Name()))))
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // another pull may have taken it at the same time
		return nil, messages.Errorf(messages.Internal, "credentials of namespace %s for %s: %w", namespace, named.Name(), err)
	}
	return inMemory(data)
}

// inMemory is a file of no file system. It goes when nothing refers to it.
func inMemory(data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("troupe-auth", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory for credentials: %w", err)
	}
	file := os.NewFile(uintptr(fd), "troupe-auth")
	if _, err := file.Write(data); err != nil {
		return nil, errors.Join(fmt.Errorf("memory for credentials: %w", err), file.Close())
	}
	return file, nil
}

func pathOf(file *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", file.Fd()) }

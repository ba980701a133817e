package images

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/troupe-run/troupe/backends"
)

// Annotations say where a layer's table of contents and its tar-split are:
// "offset:length:length unpacked…". The library makes a buffer of the length of
// the tar-split before it has read a byte, and unpacks both as far as they go,
// the former into memory.
const (
	tocPosition      = "io.github.containers.zstd-chunked.manifest-position"
	tarSplitPosition = "io.github.containers.zstd-chunked.tarsplit-position"

	maxPacked   = 150 << 20 // the library's limit for a table of contents
	maxTOC      = 150 << 20
	maxTarSplit = 1 << 30
)

// packedParts says how much the compressed parts may become, by their offsets.
func packedParts(l backends.Layer) (map[uint64]int64, error) {
	parts := map[uint64]int64{}
	for _, p := range []struct {
		key   string
		limit int64
	}{{tarSplitPosition, maxTarSplit}, {tocPosition, maxTOC}} {
		said, has := l.Annotations[p.key]
		if !has {
			continue // it is in eStargz's format, of which the library limits all
		}
		var offset, length, unpacked uint64
		if _, err := fmt.Sscanf(said, "%d:%d:%d", &offset, &length, &unpacked); err != nil {
			return nil, fmt.Errorf("annotation %s is %.256q: %w", p.key, said, err)
		}
		if length > maxPacked || length > uint64(max(l.Size, 0)) {
			return nil, fmt.Errorf("annotation %s is %.256q: that is longer than it may be", p.key, said)
		}
		parts[offset] = p.limit
	}
	return parts, nil
}

// bounded reads a compressed part, and gives it only when it does not become
// more than limit.
func bounded(part io.Reader, length uint64, limit int64) io.Reader {
	data, err := io.ReadAll(io.LimitReader(part, int64(min(length, maxPacked))))
	if err == nil {
		err = unpacksTo(data, limit)
	}
	if err != nil {
		return failing{err}
	}
	return bytes.NewReader(data)
}

func unpacksTo(data []byte, limit int64) error {
	plain, err := zstdReader(bytes.NewReader(data))
	if err != nil {
		return err
	}
	defer plain.Close()
	n, err := io.Copy(io.Discard, io.LimitReader(plain, limit+1))
	if err == nil && n > limit {
		err = errors.New("its table of contents is too large when unpacked")
	}
	return err
}

type failing struct{ error }

func (f failing) Read([]byte) (int, error) { return 0, f.error }

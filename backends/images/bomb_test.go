package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/messages"
)

// Layers that are small and become large.

func TestAFileOfManyTerabytesOfNothingIsRefusedBeforeAByteIsWritten(t *testing.T) {
	n := newHostileNode(t)
	for name, size := range map[string]string{"1 TB": "1099511627776", "8 EB": "9223372036854775807"} {
		t.Run(name, func(t *testing.T) {
			_, err := n.pull(t, zipped(t, sparseTar("hole", size, "0\n", "")))
			wantRefused(t, err, messages.NoSpace, "unpacking needs at least")
		})
	}
}

func TestASmallSparseFileIsUnpackedAsItReads(t *testing.T) {
	n := newHostileNode(t)
	plain := sparseTar("hole", "1048576", "1\n1048572\n4\n", "end!")
	plain = append(plain[:len(plain)-1024], tarred(t, file("after", "x"))...)
	layer := zipped(t, plain)
	n.reg.push(t, spec{repo: "sparse", tag: "one", layers: []packed{layer}})
	image := pull(t, n.Store, ask(n.reg.addr+"/sparse:one"))
	dirs, err := n.LayerDirs(context.Background(), image.ID)
	ok(t, err)
	data, err := os.ReadFile(filepath.Join(dirs[0], "hole"))
	if err != nil || len(data) != 1<<20 || string(data[1048572:]) != "end!" || strings.Trim(string(data[:1048572]), "\x00") != "" {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	damages, err := n.Check(context.Background(), nil)
	ok(t, err)
	if len(damages) > 0 {
		t.Errorf("it is sound, and found damaged: %+v", damages)
	}
}

func TestAGzipBombEndsWithTheDiskStillUsable(t *testing.T) {
	n := newHostileNode(t)
	for name, bomb := range map[string]func(w *tar.Writer) error{
		"one file of 2 GB": func(w *tar.Writer) error {
			if err := w.WriteHeader(&tar.Header{Name: "big", Size: 2 << 30, Mode: 0o644}); err != nil {
				return err
			}
			_, err := io.CopyN(w, zeros{}, 2<<30)
			return err
		},
		"files of 1 MB": func(w *tar.Writer) error {
			for i := range 300 {
				err := w.WriteHeader(&tar.Header{Name: "f" + digits(i), Size: 1 << 20, Mode: 0o644})
				if err == nil {
					_, err = io.CopyN(w, zeros{}, 1<<20)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			var blob bytes.Buffer
			hash := digest.SHA256.Digester()
			z, err := zstd.NewWriter(&blob, zstd.WithEncoderLevel(zstd.SpeedFastest))
			ok(t, err)
			w := tar.NewWriter(io.MultiWriter(z, hash.Hash()))
			ok(t, errors.Join(bomb(w), w.Close(), z.Close()))
			least := watchFree(t, n.cfg.GraphRoot)
			_, err = n.pull(t, packed{diffID: hash.Digest(), blob: blob.Bytes(), suffix: "+zstd"})
			wantRefused(t, err, messages.NoSpace, "keeps", "for the node")
			if free := least(); free < 1<<20 {
				t.Errorf("only %d bytes were left of 64 MB", free)
			}
		})
	}
}

// TestAMillionTinyFilesAreUnpacked notes what they cost.
func TestAMillionTinyFilesAreUnpacked(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	count := 20_000
	if os.Getenv("MILLION") != "" {
		count = 1_000_000
	}
	dir := tmpfs(t, "4g")
	read, write := io.Pipe()
	go func() {
		buffered := bufio.NewWriterSize(write, 1<<20)
		w := tar.NewWriter(buffered)
		for i := range count {
			h := &tar.Header{Name: "d" + digits(i/1000) + "/f" + digits(i), Mode: 0o644, Size: 1, ModTime: time.Unix(1, 0)}
			_ = w.WriteHeader(h)
			_, _ = w.Write([]byte("x"))
		}
		_ = write.CloseWithError(errors.Join(w.Close(), buffered.Flush()))
	}()
	began := time.Now()
	budget, err := newUnpackBudget(dir)
	ok(t, err)
	defer budget.Close()
	_, err = unpack(inspect(bufio.NewReaderSize(read, 1<<20), io.Discard, budget.spend), dir, nil)
	ok(t, err)
	made := 0
	ok(t, filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			made++
		}
		return err
	}))
	t.Logf("%d files in %s, peak of this process %d KiB", made, time.Since(began), peakKiB(t))
	if made != count {
		t.Errorf("%d files, want %d", made, count)
	}
}

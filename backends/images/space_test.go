package images

import (
	"context"
	"crypto/rand"
	"os"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

const mib = 1 << 20

// of is a manifest with gzipped layers of these sizes, known to nobody.
func of(name string, sizes ...int64) backends.Manifest {
	m := backends.Manifest{Ref: "registry/" + name + ":v"}
	for i, size := range sizes {
		d := "sha256:" + strings.Repeat(string(rune('0'+i)), 32) + strings.Repeat(name, 32)
		m.Layers = append(m.Layers, backends.Layer{Digest: d, DiffID: d, Size: size, MediaType: "application/vnd.oci.image.layer.v1.tar+gzip"})
	}
	return m
}

func TestAPullThatCannotFitIsRefusedBeforeItsFirstByte(t *testing.T) {
	s := open(t, nil, nil) // 64 MiB
	m := of("a", 20*mib, 20*mib)
	_, err := s.reserve(m, m.Layers[0])
	if messages.KindOf(err) != messages.NoSpace {
		t.Fatalf("error %v of kind %v", err, messages.KindOf(err))
	}
	for _, number := range []string{"at least 83886080 bytes", "are free", s.cfg.GraphRoot, m.Ref} {
		if !strings.Contains(err.Error(), number) {
			t.Errorf("%q is not in %q", number, err)
		}
	}
	fits := of("b", 15*mib, 15*mib)
	release, err := s.reserve(fits, fits.Layers[0])
	ok(t, err)
	release()
}

func TestPullsUnderWayAreCountedUntilTheyEnd(t *testing.T) {
	s := open(t, nil, nil)
	a, b := of("a", 10*mib, 10*mib), of("b", 15*mib)
	releaseFirst, err := s.reserve(a, a.Layers[0])
	ok(t, err)
	releaseSecond, err := s.reserve(a, a.Layers[1]) // its other layer is not counted twice
	ok(t, err)
	_, err = s.reserve(b, b.Layers[0])
	if messages.KindOf(err) != messages.NoSpace || !strings.Contains(err.Error(), "41943040 of them needed by other pulls") {
		t.Errorf("error %v of kind %v", err, messages.KindOf(err))
	}
	// Most of one has come: it is on the disk already and not to be counted again.
	noise := make([]byte, 8*mib)
	_, _ = rand.Read(noise)
	partial := s.blobPath(a.Layers[0].Digest) + partialSuffix
	write(t, partial, noise)
	small := of("c", 11*mib)
	release, err := s.reserve(small, small.Layers[0])
	if err != nil {
		t.Errorf("46 MiB are needed, more are free: %v", err)
	} else {
		release()
	}
	ok(t, os.Remove(partial))
	releaseFirst()
	releaseFirst()
	releaseSecond()
	release, err = s.reserve(b, b.Layers[0])
	ok(t, err)
	release()
}

func TestWhatIsToBeKeptFreeIsNotTaken(t *testing.T) {
	s := open(t, nil, func(c *Config) { c.MinFree = 50 * mib })
	m := of("a", 10*mib)
	_, err := s.reserve(m, m.Layers[0])
	if messages.KindOf(err) != messages.NoSpace || !strings.Contains(err.Error(), "52428800 to be kept free") {
		t.Errorf("error %v of kind %v", err, messages.KindOf(err))
	}
}

func TestLayersThatAreThereNeedNoSpace(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	s := open(t, reg, func(c *Config) { c.MinFree = 1 << 40 })
	m, err := s.Resolve(context.Background(), ask(reg.addr+"/a:v"))
	ok(t, err)
	if _, err := s.reserve(m, m.Layers[0]); messages.KindOf(err) != messages.NoSpace {
		t.Errorf("before: error %v", err)
	}
	s.cfg.MinFree = 0
	pull(t, s, ask(reg.addr+"/a:v"))
	s.cfg.MinFree = 1 << 40
	release, err := s.reserve(m, m.Layers[0])
	ok(t, err)
	release()
}

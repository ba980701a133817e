package images

import (
	"context"
	"errors"
	"net/http"
	"os"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// The registry does not serve the blob: what the first try has must do.
func TestACancelledUnpackingEndsAndItsBlobIsKept(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	layer := layerWith(t, map[string][]byte{"noise": noise(t, 8<<20)}, "gzip")
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layer}})
	f := newFront(t, reg, "blobs/"+digestOf(layer))
	f.answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	s := open(t, reg, nil)
	m, err := s.Resolve(context.Background(), ask(f.addr+"/a:v"))
	ok(t, err)
	write(t, s.blobPath(digestOf(layer))+partialSuffix, layer.blob)
	ctx, cancel := context.WithCancel(context.Background())
	var last backends.Progress
	err = s.Fetch(ctx, ask(""), m, m.Layers[0], func(p backends.Progress) {
		if last = p; p.Unpacked > 0 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || messages.KindOf(err) != messages.Canceled {
		t.Errorf("error %v of kind %v", err, messages.KindOf(err))
	}
	if last.Unpacked > 6<<20 {
		t.Errorf("it was unpacked on, %d bytes", last.Unpacked)
	}
	ok(t, s.Fetch(context.Background(), ask(""), m, m.Layers[0], nil))
	if _, err := os.Stat(s.blobPath(digestOf(layer)) + partialSuffix); !os.IsNotExist(err) {
		t.Errorf("the blob of a staged layer: %v", err)
	}
}

// A pull-through cache whose own disk is full is not this node's.
func TestARegistryWithAFullDiskIsNotTakenForOurs(t *testing.T) {
	reg, f, _ := layerFront(t)
	s := open(t, reg, nil)
	f.answer(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte("write /var/lib/registry: no space left on device"))
	})
	m, err := s.Resolve(context.Background(), ask(f.addr+"/a:v"))
	ok(t, err)
	if err := s.Fetch(context.Background(), ask(""), m, m.Layers[0], nil); messages.KindOf(err) != messages.Unauthorized {
		t.Errorf("error %v of kind %v", err, messages.KindOf(err))
	}
}

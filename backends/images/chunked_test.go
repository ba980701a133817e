package images

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/storage/pkg/chunked"
)

// Where a table of contents and its tar-split are, and how long, is said by
// annotations; the library makes room for the latter before it has read a byte.
func TestAnAnnotationDoesNotMakeUsAllocateWhatItSays(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	for i, length := range []string{"1125899906842624", "35184372088832", "18446744073709551615", "x"} {
		layer := chunkedLayer(t, map[string][]byte{"a": noise(t, 100_000)})
		parts := strings.Split(layer.annotations[tarSplitPosition], ":")
		if len(parts) != 3 {
			t.Fatalf("annotations %v", layer.annotations)
		}
		layer.annotations[tarSplitPosition] = parts[0] + ":" + length + ":" + parts[2]
		name := fmt.Sprintf("a%d", i)
		reg.push(t, spec{repo: name, tag: "v", layers: []packed{layer}})
		pull(t, open(t, reg, nil), ask(reg.addr+"/"+name+":v"))
	}
}

// The library has the stream before its first byte has come.
func TestAPartOfAChunkedLayerOfWhichNoByteComesEndsThePull(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	layer := chunkedLayer(t, map[string][]byte{"a": noise(t, 100_000)})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layer}})
	f := newFront(t, reg, "blobs/"+digestOf(layer))
	f.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.WriteHeader(http.StatusPartialContent)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s := open(t, reg, func(c *Config) { c.PullProgressTimeout = time.Second })
	_, err := conformance.Pull(ctx, s, ask(f.addr+"/a:v"))
	if messages.KindOf(err) != messages.Deadline || !strings.Contains(err.Error(), "pull_progress_timeout") {
		t.Errorf("error %v of kind %v", err, messages.KindOf(err))
	}
}

// What is done with the bytes of a layer may take longer than a registry may
// take to send some.
func TestAPartThatHasComeIsNotWaitedFor(t *testing.T) {
	reg, f, layer := layerFront(t)
	f.answer(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", zeroTime, bytes.NewReader(layer.blob))
	})
	m, err := open(t, reg, nil).Resolve(context.Background(), ask(f.addr+"/a:v"))
	ok(t, err)
	res, err := opaque(m)
	ok(t, err)
	stalled := make(chan struct{}, 100)
	r := &ranges{
		ctx: t.Context(), source: res.source, info: infoOf(m.Layers[0]), seen: func(int64) {},
		limit: 200 * time.Millisecond, stalled: func() { stalled <- struct{}{} },
	}
	streams, _, err := r.GetBlobAt([]chunked.ImageSourceChunk{{Offset: 1, Length: 50_000}})
	ok(t, err)
	stream := <-streams
	_, err = io.ReadAll(stream)
	ok(t, err)
	select {
	case <-stalled:
		t.Error("it is called stalled, and all has come")
	case <-time.After(600 * time.Millisecond):
	}
	ok(t, stream.Close())
}

package images

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/backends/conformance"
)

// The library unpacks a table of contents into memory, as much of it as comes.
func TestATableOfContentsThatIsABombDoesNotTakeTheMemory(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	var bomb bytes.Buffer
	z, err := zstd.NewWriter(&bomb)
	ok(t, err)
	_, err = io.CopyN(z, zeros{}, 1200<<20)
	ok(t, err)
	ok(t, z.Close())
	for _, where := range []string{tocPosition, tarSplitPosition} {
		layer := chunkedLayer(t, map[string][]byte{"a": noise(t, 1000)})
		offset := len(layer.blob)
		layer.blob = append(layer.blob, bomb.Bytes()...)
		parts := strings.Split(layer.annotations[where], ":")
		layer.annotations[where] = strings.Join(append([]string{fmt.Sprint(offset), fmt.Sprint(bomb.Len())}, parts[2:]...), ":")
		if where == tocPosition {
			layer.annotations["io.github.containers.zstd-chunked.manifest-checksum"] = digest.FromBytes(bomb.Bytes()).String()
		}
		reg.push(t, spec{repo: "bomb", tag: "v", layers: []packed{layer}})
		before := peakKiB(t)
		_, err := conformance.Pull(context.Background(), open(t, reg, nil), ask(reg.addr+"/bomb:v"))
		if grown := peakKiB(t) - before; grown > 500<<10 {
			t.Errorf("%s: memory grew by %d KiB (%v)", where, grown, err)
		}
	}
}

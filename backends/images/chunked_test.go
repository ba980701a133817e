package images

import (
	"fmt"
	"strings"
	"testing"
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

package images

import (
	"encoding/json"
	"testing"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/types"
)

// listOf is an index with one member for each amd64 variant, and what member
// each one's digest stands for.
func listOf(t *testing.T, variants ...string) (manifest.List, map[string]string) {
	t.Helper()
	names, index := map[string]string{}, ispec.Index{MediaType: ispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	for _, v := range variants {
		d := ispec.DescriptorEmptyJSON.Digest.Algorithm().FromString(v)
		names[d.String()] = v
		index.Manifests = append(index.Manifests, ispec.Descriptor{
			MediaType: ispec.MediaTypeImageManifest, Digest: d, Size: 2,
			Platform: &ispec.Platform{OS: "linux", Architecture: "amd64", Variant: v},
		})
	}
	data, err := json.Marshal(index)
	ok(t, err)
	list, err := manifest.ListFromBlob(data, ispec.MediaTypeImageIndex)
	ok(t, err)
	return list, names
}

func TestOfSeveralVariantsTheOneForThisProcessorIsTaken(t *testing.T) {
	third := []string{"v3", "v2", "v1"}
	for _, c := range []struct {
		has  []string
		want string
	}{
		{[]string{"v3", "", "v2"}, ""}, // as every other runtime
		{[]string{"v1"}, "v1"},
		{[]string{"v1", "v2", "v3", "v4"}, "v3"},
		{[]string{"v4", "v2"}, "v2"},
		{[]string{"v4"}, "none"},
	} {
		list, names := listOf(t, c.has...)
		instance, err := chooseInstance(list, &types.SystemContext{ArchitectureChoice: "amd64"}, third)
		got := names[instance.String()]
		if err != nil {
			got = "none"
		}
		if got != c.want {
			t.Errorf("of %q: %q, want %q (%v)", c.has, got, c.want, err)
		}
	}
}

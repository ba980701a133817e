package actors

import (
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/troupe-run/troupe/messages"
)

// findImage looks an image up the ways a kubelet and people name one: by id
// (whole, prefix, or with "sha256:"), by a tag or digest reference as stored,
// or by the short form of one (busybox → docker.io/library/busybox:latest).
func findImage(images []messages.Image, ref string) (messages.Image, bool) {
	id := strings.TrimPrefix(ref, "sha256:")
	full := fullName(ref)
	var hit *messages.Image
	for i := range images {
		img := &images[i]
		switch {
		case id == img.ID, slices.Contains(img.RepoTags, ref), slices.Contains(img.RepoDigests, ref):
			return *img, true
		case full != "" && (slices.Contains(img.RepoTags, full) || slices.Contains(img.RepoDigests, full)):
			return *img, true
		case len(id) >= 12 && strings.HasPrefix(img.ID, id):
			hit = img
		}
	}
	if hit != nil {
		return *hit, true
	}
	return messages.Image{}, false
}

// fullName is the name with registry and tag, or name@digest when there is a
// digest (a tag beside a digest says nothing).
func fullName(ref string) string {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return ""
	}
	return named.String()
}

package images

import (
	"fmt"
	"math"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/manifest"
)

// What an image may ask for. Everything of it is kept in memory, shown by CRI
// in every list, or done again for each container.
const (
	maxLayers  = 499 // overlay takes 500 (OVL_MAX_STACK), and an image that is a volume needs one more
	maxUser    = 4096
	maxVolumes = 1024
	maxWords   = 2 << 20 // bytes of command and environment: execve(2) takes no more (ARG_MAX)
)

// checkLimits refuses what could not be run, and what would be a burden to
// those who ask for the list of images.
func checkLimits(name string, layers []manifest.LayerInfo, config ispec.ImageConfig) error {
	refuse := func(format string, args ...any) error {
		return messages.Errorf(messages.Precondition, "%s cannot be used: %s", name, fmt.Sprintf(format, args...))
	}
	if len(layers) > maxLayers {
		return refuse("it has %d layers, overlayfs takes %d", len(layers), maxLayers)
	}
	total := int64(0)
	for i, l := range layers {
		if l.Size < 0 || l.Size > math.MaxInt64-total {
			return refuse("layer %d has a size of %d bytes", i+1, l.Size)
		}
		total += l.Size
	}
	words := 0
	for _, list := range [][]string{config.Env, config.Entrypoint, config.Cmd} {
		for _, word := range list {
			words += len(word) + 1
		}
	}
	switch {
	case len(config.User) > maxUser:
		return refuse("its USER has %d bytes, at most %d are taken", len(config.User), maxUser)
	case len(config.StopSignal) > maxUser:
		return refuse("its STOPSIGNAL has %d bytes", len(config.StopSignal))
	case len(config.Volumes) > maxVolumes:
		return refuse("it has %d volumes, at most %d are taken", len(config.Volumes), maxVolumes)
	case words > maxWords:
		return refuse("its command and environment have %d bytes, Linux takes %d", words, maxWords)
	}
	return nil
}

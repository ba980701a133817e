package messages

import (
	"errors"
	"slices"
	"strings"

	"github.com/docker/go-units"
)

// ShmSizeAnnotation asks for a size of the pod's /dev/shm, like "256Mi" (CRI-O).
const ShmSizeAnnotation = "io.kubernetes.cri-o.ShmSize"

// ParseShmSize reads its value: bytes, with a unit or without, as Kubernetes
// writes quantities ("64Mi") or as Docker does ("64m").
func ParseShmSize(text string) (bytes int64, err error) {
	if strings.HasSuffix(text, "i") {
		text += "B"
	}
	bytes, err = units.RAMInBytes(text)
	if err == nil && bytes <= 0 {
		err = errors.New("must be more than nothing")
	}
	if err != nil {
		return 0, Errorf(Invalid, "annotation %s: %q: %w", ShmSizeAnnotation, text, err)
	}
	return bytes, nil
}

// AnnotationAllowed says whether a handler's allowed_annotations (crio.conf(5))
// have the annotation: an entry stands for all that begin with it.
func AnnotationAllowed(allowed []string, name string) bool {
	return slices.ContainsFunc(allowed, func(a string) bool { return a != "" && strings.HasPrefix(name, a) })
}

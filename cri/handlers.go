package cri

import (
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Handler is a runtime handler that RunPodSandbox may name.
type Handler struct {
	Name              string
	RecursiveReadOnly bool // it can mount recursively read-only
	UserNamespaces    bool
	MinMemory         int64 // bytes; a smaller limit than this is refused; 0: none is
	// AllowedAnnotations are those of CRI-O's that pods may steer it by.
	AllowedAnnotations []string
}

// handler is the name of a usable handler; none asked for is the default
// (cri-api, RunPodSandboxRequest: an unknown one must be refused).
func (s *Server) handler(name string) (string, error) {
	if name == "" {
		return s.config.DefaultHandler, nil
	}
	if s.usable(name) != nil {
		return name, nil
	}
	if why, configured := s.config.Unusable[name]; configured {
		return "", messages.Errorf(messages.Precondition, "runtime handler %q cannot be used on this node: %s; restart the runtime afterwards", name, why)
	}
	var known []string
	for _, h := range s.config.Handlers {
		known = append(known, h.Name)
	}
	return "", messages.Errorf(messages.Invalid, "runtime handler %q is not configured on this node (there are: %v): correct the pod's RuntimeClass, or add the handler to the runtime's configuration", name, known)
}

// usable gives the handler or nil.
func (s *Server) usable(name string) *Handler {
	for i := range s.config.Handlers {
		if h := &s.config.Handlers[i]; h.Name == name {
			return h
		}
	}
	return nil
}

// shmSize is what a pod asks for by CRI-O's annotation, if its handler allows it.
func (s *Server) shmSize(handler string, annotations map[string]string) (int64, error) {
	text, asked := annotations[messages.ShmSizeAnnotation]
	h := s.usable(handler)
	if !asked || h == nil || !messages.AnnotationAllowed(h.AllowedAnnotations, messages.ShmSizeAnnotation) {
		return 0, nil
	}
	return messages.ParseShmSize(text)
}

// checkMemory refuses a limit in which the handler cannot even start a process
// (crio.conf(5), container_min_memory): it would be OOM-killed again and again.
func (s *Server) checkMemory(pod *messages.PodSnapshot, r *runtime.LinuxContainerResources) error {
	h, limit := s.usable(pod.Handler), r.GetMemoryLimitInBytes()
	if h == nil || limit <= 0 || limit >= h.MinMemory {
		return nil
	}
	return messages.Errorf(messages.Invalid, "linux.resources.memory_limit_in_bytes is %d: containers of the runtime handler %s need at least %d bytes (container_min_memory); raise the container's memory limit", limit, h.Name, h.MinMemory)
}

package cri

import (
	"strings"
	"testing"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestAHandlerThatCannotBeUsedIsRefusedWithTheReason(t *testing.T) {
	s := &Server{config: Config{Handlers: []Handler{{Name: "native"}}, DefaultHandler: "native", Unusable: map[string]string{"crun": "/usr/bin/crun does not exist"}}}
	_, err := s.handler("crun")
	if messages.KindOf(err) != messages.Precondition || !strings.Contains(err.Error(), "/usr/bin/crun does not exist") {
		t.Errorf("%v", err)
	}
}

func TestAMemoryLimitInWhichNothingStartsIsRefused(t *testing.T) {
	s := &Server{config: Config{Handlers: []Handler{{Name: "native", MinMemory: 12 << 20}, {Name: "small"}}}}
	limit := func(bytes int64) *runtime.LinuxContainerResources {
		return &runtime.LinuxContainerResources{MemoryLimitInBytes: bytes}
	}
	for _, c := range []struct {
		handler string
		bytes   int64
		refused bool
	}{
		{"native", 12<<20 - 1, true},
		{"native", 12 << 20, false},
		{"native", 0, false},
		{"native", -1, false},
		{"small", 1, false},
		{"gone", 1, false},
	} {
		err := s.checkMemory(&messages.PodSnapshot{Handler: c.handler}, limit(c.bytes))
		if (err != nil) != c.refused || (err != nil && (messages.KindOf(err) != messages.Invalid || !strings.Contains(err.Error(), "container_min_memory"))) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if err := s.checkMemory(&messages.PodSnapshot{Handler: "native"}, nil); err != nil {
		t.Errorf("no limits at all: %v", err)
	}
}

package images

import (
	"runtime"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/types"
	"golang.org/x/sys/cpu"
)

// chooseInstance takes this machine's image from a list: for arm, the library
// finds the best variant that the processor can run. For amd64 it only takes
// one without a variant; a list that has none such (amd64/v1, v2, v3…) is
// served with the highest level this processor has.
func chooseInstance(list manifest.List, sys *types.SystemContext, levels []string) (digest.Digest, error) {
	instance, err := list.ChooseInstance(sys)
	if err == nil {
		return instance, nil
	}
	for _, level := range levels {
		with := *sys
		with.VariantChoice = level
		if instance, err := list.ChooseInstance(&with); err == nil {
			return instance, nil
		}
	}
	return "", err
}

// amd64Levels are the x86-64 levels of this processor, the highest first. What
// the levels demand and x/sys/cpu does not tell (F16C, LZCNT, MOVBE) came with
// the same processors.
func amd64Levels() []string {
	if runtime.GOARCH != "amd64" {
		return nil
	}
	x := cpu.X86
	levels := []string{"v1"}
	if x.HasSSE3 && x.HasSSSE3 && x.HasSSE41 && x.HasSSE42 && x.HasPOPCNT && x.HasCX16 {
		levels = []string{"v2", "v1"}
		if x.HasAVX && x.HasAVX2 && x.HasBMI1 && x.HasBMI2 && x.HasFMA && x.HasOSXSAVE {
			levels = []string{"v3", "v2", "v1"}
			if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512CD && x.HasAVX512DQ && x.HasAVX512VL {
				levels = []string{"v4", "v3", "v2", "v1"}
			}
		}
	}
	return levels
}

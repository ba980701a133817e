package bundles

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"
)

// cdiDevices gives the container what the specs in cdi_spec_dirs say of the CDI
// devices it asks for: device nodes, mounts, environment, hooks. They come from
// the node's administrator and are not held to what a pod may ask for.
//
// The specs are read anew for each container with such a device: a device
// plugin may have written one a moment ago.
func (b *bundle) cdiDevices() error {
	names, err := b.cdiNames()
	if err != nil || len(names) == 0 {
		return err
	}
	return b.injectCDI(b.spec, names)
}

// injectCDI is for what a pod asks for and for what plugins do.
func (b *bundle) injectCDI(spec *specs.Spec, names []string) error {
	if b.cdi == nil {
		return messages.Errorf(messages.Precondition, "CDI device %s: CDI is switched off on this node: set cdi_spec_dirs", names[0])
	}
	broken := b.Backend.cdi.Refresh() // specs that cannot be read; others can
	unknown, err := b.Backend.cdi.InjectDevices(spec, names...)
	if len(unknown) > 0 {
		return messages.Errorf(messages.NotFound, "CDI device %s: no spec in %s has it (did its device plugin write one?)%s",
			strings.Join(unknown, ", "), strings.Join(b.config.CDISpecDirs, ", "), brokenSpecs(broken))
	}
	if err != nil {
		return fmt.Errorf("CDI devices %s: %w", strings.Join(names, ", "), err)
	}
	if broken != nil {
		b.log.Warn("CDI specs that cannot be used are left out", "error", broken)
	}
	b.User = criUser(spec.Process.User) // a spec can add groups
	return nil
}

// cdiNames are the devices of the request, and those of the older way by
// annotations of the container; the kubelet writes both, and none of the pod's.
func (b *bundle) cdiNames() ([]string, error) {
	var names []string
	for _, d := range b.r.Config.GetCDIDevices() {
		names = append(names, d.GetName())
	}
	_, annotated, err := cdi.ParseAnnotations(b.r.Config.GetAnnotations())
	if err != nil {
		return nil, messages.Errorf(messages.Invalid, "annotations: CDI devices: %w", err)
	}
	for _, name := range annotated {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if _, _, _, err := parser.ParseQualifiedName(name); err != nil {
			return nil, messages.Errorf(messages.Invalid, "CDI device %q: must be like vendor.com/class=name: %w", name, err)
		}
	}
	return unique(names), nil
}

func brokenSpecs(err error) string {
	if err == nil {
		return ""
	}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) && len(joined.Unwrap()) > 0 {
		err = joined.Unwrap()[0]
	}
	return fmt.Sprintf("; a spec that cannot be used: %v", err)
}

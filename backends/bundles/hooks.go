package bundles

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/common/pkg/hooks"
	hook "go.podman.io/common/pkg/hooks/1.0.0"
)

// hookSet is the node's OCI hooks (oci-hooks(5)), as they were last readable.
type hookSet struct {
	dirs []string
	mu   sync.Mutex
	good map[string]*hook.Hook // by file name
}

// read reads all directories; of two files with one name the later wins. One
// that is not there holds no hooks.
func (h *hookSet) read(dirs []string) error {
	found := map[string]*hook.Hook{}
	for _, dir := range dirs {
		if err := hooks.ReadDir(dir, nil, found); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return messages.Errorf(messages.Invalid, "hooks_dir %s: %w", dir, err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dirs, h.good = dirs, found
	return nil
}

// now are the hooks there are now. Directories are small and are read for every
// container, so that nothing watches them. While one holds a file that cannot
// be used the hooks of before hold: a container must neither run without them
// nor not at all.
func (h *hookSet) now() (map[string]*hook.Hook, error) {
	if len(h.dirs) == 0 {
		return nil, nil
	}
	err := h.read(h.dirs)
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.good, err
}

// ociHooks adds the hooks whose conditions the container meets. Their
// annotations are the pod's and the container's; those that a hook was chosen
// by are told to it, in the state a runtime gives it, and no others.
func (b *bundle) ociHooks() error {
	all, err := b.hooks.now()
	if err != nil {
		b.log.Error("the OCI hooks cannot be read; those that were read before are used", "error", err)
	}
	if len(all) == 0 {
		return nil
	}
	said := maps.Clone(b.r.PodConfig.GetAnnotations())
	if said == nil {
		said = map[string]string{}
	}
	maps.Copy(said, b.r.Config.GetAnnotations())
	names := slices.SortedFunc(maps.Keys(all), func(x, y string) int { return strings.Compare(strings.ToLower(x), strings.ToLower(y)) })
	for _, name := range names {
		match, err := all[name].When.Match(b.spec, said, len(b.r.Config.GetMounts()) > 0)
		if err != nil {
			return fmt.Errorf("OCI hook %s: %w", name, err)
		}
		if !match {
			continue
		}
		if err := addHook(b.spec, all[name]); err != nil {
			return fmt.Errorf("OCI hook %s: %w", name, err)
		}
		b.tell(all[name].When.Annotations, said)
	}
	return nil
}

func addHook(spec *specs.Spec, h *hook.Hook) error {
	if spec.Hooks == nil {
		spec.Hooks = &specs.Hooks{}
	}
	stages := map[string]*[]specs.Hook{
		// prestart is deprecated; createRuntime runs at the same moment.
		"prestart": &spec.Hooks.CreateRuntime, "createRuntime": &spec.Hooks.CreateRuntime, "createContainer": &spec.Hooks.CreateContainer,
		"startContainer": &spec.Hooks.StartContainer, "poststart": &spec.Hooks.Poststart, "poststop": &spec.Hooks.Poststop,
	}
	for _, stage := range h.Stages {
		list, ok := stages[stage]
		if !ok {
			return messages.Errorf(messages.Invalid, "stage %q is not known", stage)
		}
		*list = append(*list, h.Hook)
	}
	return nil
}

// steering are annotations by which runtimes themselves are steered: a pod must
// not reach them through a hook with a wide pattern.
var steering = []string{"run.oci.", "run.troupe.", "org.systemd.property.", "org.criu."}

// tell puts the annotations that match one of a hook's patterns into the spec.
func (b *bundle) tell(patterns, said map[string]string) {
	for pattern := range patterns {
		matches, err := regexp.Compile(pattern)
		if err != nil {
			continue // it has matched: it compiles
		}
		for key, value := range said {
			steers := slices.ContainsFunc(steering, func(prefix string) bool { return strings.HasPrefix(key, prefix) })
			if matches.MatchString(key) && !steers {
				b.spec.Annotations[key] = value
			}
		}
	}
}

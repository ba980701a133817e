package checkpoints

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"google.golang.org/protobuf/encoding/protojson"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Check compares a pod's checkpoint with what it is to be restored as
// (cri-api, RestorePodRequest): the same handler, exactly the same containers by
// name, and of each the image, command, arguments, working directory,
// environment and credentials of the process that was captured.
func (b *Backend) Check(ctx context.Context, r backends.RestoreRequest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(r.Dir, podDump))
	if errors.Is(err, fs.ErrNotExist) {
		return messages.Errorf(messages.Invalid, "checkpoint_path %s: there is no checkpoint of a pod in it (no %s)", r.Dir, podDump)
	}
	if err != nil {
		return messages.Errorf(messages.Invalid, "checkpoint_path %s: %w", r.Dir, err)
	}
	var state podState
	if err := json.Unmarshal(data, &state); err != nil {
		return messages.Errorf(messages.Invalid, "checkpoint_path %s: %s cannot be read: %w", r.Dir, podDump, err)
	}
	if state.Handler != r.Handler {
		return messages.Errorf(messages.Invalid, "runtime_handler %q: the checkpoint was made with handler %q", r.Handler, state.Handler)
	}
	asked := map[string]bool{}
	for _, c := range r.Containers {
		name := c.GetMetadata().GetName()
		asked[name] = true
		data, ok := state.Containers[name]
		if !ok {
			return messages.Errorf(messages.Invalid, "container_configs: %q is not in the checkpoint, which has %s", name, strings.Join(slices.Sorted(maps.Keys(state.Containers)), ", "))
		}
		var was runtime.ContainerConfig
		if err := protojson.Unmarshal(data, &was); err != nil {
			return messages.Errorf(messages.Invalid, "checkpoint_path %s: container %s cannot be read: %w", r.Dir, name, err)
		}
		if field := mismatch(&was, c); field != "" {
			return messages.Errorf(messages.Invalid, "container_configs: %s of %q is not that of the process in the checkpoint", field, name)
		}
		if _, err := os.Stat(filepath.Join(r.Dir, name+".tar")); err != nil {
			return messages.Errorf(messages.Invalid, "checkpoint_path %s: the archive of container %s: %w", r.Dir, name, err)
		}
	}
	for name := range state.Containers {
		if !asked[name] {
			return messages.Errorf(messages.Invalid, "container_configs: %q is in the checkpoint and not in the request", name)
		}
	}
	return nil
}

// mismatch names the first field that differs of those a process was made from.
func mismatch(was, is *runtime.ContainerConfig) string {
	envs := func(c *runtime.ContainerConfig) (list []string) {
		for _, e := range c.GetEnvs() {
			list = append(list, e.GetKey()+"="+string(e.GetValue()))
		}
		return list
	}
	a, b := was.GetLinux().GetSecurityContext(), is.GetLinux().GetSecurityContext()
	switch {
	case was.GetImage().GetImage() != is.GetImage().GetImage():
		return "image"
	case !slices.Equal(was.GetCommand(), is.GetCommand()):
		return "command"
	case !slices.Equal(was.GetArgs(), is.GetArgs()):
		return "args"
	case was.GetWorkingDir() != is.GetWorkingDir():
		return "working_dir"
	case !slices.Equal(envs(was), envs(is)):
		return "envs"
	case a.GetRunAsUser().GetValue() != b.GetRunAsUser().GetValue(), a.GetRunAsUsername() != b.GetRunAsUsername(),
		a.GetRunAsGroup().GetValue() != b.GetRunAsGroup().GetValue(), !slices.Equal(a.GetSupplementalGroups(), b.GetSupplementalGroups()):
		return "the user"
	}
	return ""
}

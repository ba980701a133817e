package cri

import (
	"fmt"
	"math"
	"path"
	"path/filepath"
	"slices"
	"strings"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// validateCommand checks what is to run; whether there is anything to run
// depends on the image.
func validateCommand(c *runtime.ContainerConfig) error {
	if len(c.GetCommand()) > 0 && c.GetCommand()[0] == "" {
		return invalid("command[0]", "is empty: name the command to run")
	}
	return firstOf(
		validateNoNUL("command", c.GetCommand()),
		validateNoNUL("args", c.GetArgs()),
		validatePathText("working_dir", c.GetWorkingDir()),
	)
}

func validateEnvs(envs []*runtime.KeyValue) error {
	for i, e := range envs {
		field := fmt.Sprintf("envs[%d]", i)
		if key := e.GetKey(); key == "" || strings.ContainsAny(key, "=\x00") {
			return invalid(field+".key", "%q: must not be empty or contain '=' or NUL", key)
		}
		if strings.ContainsRune(string(e.GetValue()), 0) {
			return invalid(field+".value", "of %s must not contain NUL characters", e.GetKey())
		}
	}
	return nil
}

func validateMounts(mounts []*runtime.Mount) error {
	for i, m := range mounts {
		if err := in(fmt.Sprintf("mounts[%d]", i), validateMount(m)); err != nil {
			return err
		}
	}
	return nil
}

func validateMount(m *runtime.Mount) error {
	at, fromImage := m.GetContainerPath(), m.GetImage() != nil
	switch {
	case at == "":
		return invalid("container_path", "is empty: say where to mount %q", m.GetHostPath())
	case path.Clean(at) == "/":
		return invalid("container_path", "%q: must not be the root of the container", at)
	case fromImage && m.GetHostPath() != "":
		return invalid("host_path", "%q: must be empty when image is set", m.GetHostPath())
	case fromImage && m.GetImage().GetImage() == "":
		return invalid("image.image", "is empty: name the image to mount at %s", at)
	case !fromImage && m.GetImageSubPath() != "":
		return invalid("image_sub_path", "%q: is set without image at %s", m.GetImageSubPath(), at)
	case m.GetImageSubPath() != "" && !filepath.IsLocal(m.GetImageSubPath()):
		return invalid("image_sub_path", "%q: must be a relative path that stays in the image", m.GetImageSubPath())
	case fromImage && !m.GetReadonly():
		return invalid("readonly", "is false for the image at %s: images are mounted read-only, say so", at)
	case fromImage && m.GetSelinuxRelabel():
		return invalid("selinux_relabel", "is set for the image at %s, whose labels cannot change", at)
	case !fromImage && m.GetHostPath() == "":
		return invalid("host_path", "is empty: say what to mount at %s", at)
	case m.GetRecursiveReadOnly() && !m.GetReadonly():
		return invalid("recursive_read_only", "is set without readonly at %s: set readonly too", at)
	case m.GetRecursiveReadOnly() && m.GetPropagation() != runtime.MountPropagation_PROPAGATION_PRIVATE:
		return invalid("recursive_read_only", "needs propagation PRIVATE at %s, not %s", at, m.GetPropagation())
	}
	return firstOf(
		validateFilePath("container_path", at),
		validateFilePath("host_path", m.GetHostPath()),
		validatePathText("image_sub_path", m.GetImageSubPath()),
		validateMountOptions(m.GetMountOptions()),
		validateEnum("propagation", m.GetPropagation(), runtime.MountPropagation_name),
		validateMountMappings(m),
	)
}

// bindOptions are what mount_options may hold: "noexec, nodev, nosuid" by
// cri-api, and those of access times, which harm nobody either.
var bindOptions = []string{"noexec", "nodev", "nosuid", "noatime", "nodiratime", "relatime"}

func validateMountOptions(options []string) error {
	for i, o := range options {
		if !slices.Contains(bindOptions, o) {
			return invalid(fmt.Sprintf("mount_options[%d]", i), "%q: must be one of %s", o, strings.Join(bindOptions, ", "))
		}
	}
	return nil
}

func validateDevices(devices []*runtime.Device) error {
	for i, d := range devices {
		field := fmt.Sprintf("devices[%d].", i)
		if d.GetHostPath() == "" {
			return invalid(field+"host_path", "is empty: name the device")
		}
		if strings.Trim(d.GetPermissions(), "rwm") != "" {
			return invalid(field+"permissions", "%q: must be of r, w and m", d.GetPermissions())
		}
		if err := firstOf(validateFilePath(field+"host_path", d.GetHostPath()), validateFilePath(field+"container_path", d.GetContainerPath())); err != nil {
			return err
		}
	}
	return nil
}

func validateSecurity(sc *runtime.LinuxContainerSecurityContext) error {
	options := sc.GetNamespaceOptions()
	target := options.GetPid() == runtime.NamespaceMode_TARGET
	switch {
	case target && options.GetTargetId() == "":
		return invalid("namespace_options.target_id", "is empty: pid TARGET needs the container whose namespace to share")
	case !target && options.GetTargetId() != "":
		return invalid("namespace_options.target_id", "%q: must only be set with pid TARGET", options.GetTargetId())
	}
	pod, container, node := runtime.NamespaceMode_POD, runtime.NamespaceMode_CONTAINER, runtime.NamespaceMode_NODE
	return firstOf(
		validateMode("network", options.GetNetwork(), pod, container, node),
		validateMode("ipc", options.GetIpc(), pod, container, node),
		validateMode("pid", options.GetPid(), pod, container, node, runtime.NamespaceMode_TARGET),
		validateUserNamespace(options),
		validateRunAs(sc.GetRunAsUser(), sc.GetRunAsGroup(), sc.GetRunAsUsername()),
		validateGroups(sc.GetSupplementalGroups(), sc.GetSupplementalGroupsPolicy()),
		validateProfile("seccomp", sc.GetSeccomp()),
		validateProfile("apparmor", sc.GetApparmor()),
		validatePaths("masked_paths", sc.GetMaskedPaths()),
		validatePaths("readonly_paths", sc.GetReadonlyPaths()),
	)
}

func validatePaths(field string, paths []string) error {
	for i, p := range paths {
		at := fmt.Sprintf("%s[%d]", field, i)
		if p == "" {
			return invalid(at, "is empty")
		}
		if err := validateFilePath(at, p); err != nil {
			return err
		}
	}
	return nil
}

// validateRunAs: "run_as_group should only be specified when run_as_user or
// run_as_username is specified; otherwise, the runtime MUST error" (cri-api).
func validateRunAs(user, group *runtime.Int64Value, name string) error {
	switch {
	case user != nil && name != "":
		return invalid("run_as_username", "%q: is set together with run_as_user: set one of them", name)
	case group != nil && user == nil && name == "":
		return invalid("run_as_group", "is set without run_as_user: set the user too")
	case strings.ContainsRune(name, ':') || strings.ContainsFunc(name, isSpaceOrControl):
		// A line break here became a line of /etc/passwd (CVE-2022-4318).
		return invalid("run_as_username", "%q: is not a user name", name)
	}
	return firstOf(validateUserID("run_as_user", user.GetValue()), validateUserID("run_as_group", group.GetValue()))
}

func validateGroups(groups []int64, policy runtime.SupplementalGroupsPolicy) error {
	for i, gid := range groups {
		if err := validateUserID(fmt.Sprintf("supplemental_groups[%d]", i), gid); err != nil {
			return err
		}
	}
	return validateEnum("supplemental_groups_policy", policy, runtime.SupplementalGroupsPolicy_name)
}

func validateUserID(field string, id int64) error {
	if id < 0 || id > math.MaxInt32 {
		return invalid(field, "%d: must be between 0 and %d", id, math.MaxInt32)
	}
	return nil
}

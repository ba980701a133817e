package cri

import (
	"fmt"
	"strings"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// This file and its siblings refuse, before any message is made, what could
// never work: an error here costs nothing and leaves nothing. Every error
// names the field as cri-api does and says what would be right. What only the
// node can know (does a path exist, is a profile loaded) is the backends'.

// validateRunPod checks a sandbox to be started.
func validateRunPod(r *runtime.RunPodSandboxRequest) error {
	config := r.GetConfig()
	if config == nil {
		return invalid("config", "is missing: send the PodSandboxConfig")
	}
	return in("config", firstOf(
		validatePodMetadata(config.GetMetadata()),
		validateHostname(config),
		validateFilePath("log_directory", config.GetLogDirectory()),
		validateDNS(config.GetDnsConfig()),
		validatePorts(config.GetPortMappings()),
		validateMaps(config.GetLabels(), config.GetAnnotations()),
		validatePodLinux(config.GetLinux()),
	))
}

// validateCreate checks a container to be created.
func validateCreate(r *runtime.CreateContainerRequest) error {
	config := r.GetConfig()
	switch {
	case r.GetPodSandboxId() == "":
		return invalid("pod_sandbox_id", "is empty: name the sandbox")
	case config == nil:
		return invalid("config", "is missing: send the ContainerConfig")
	case config.GetMetadata() == nil:
		return invalid("config.metadata", "is missing: it names the container")
	}
	return in("config", firstOf(
		validateName("metadata.name", config.GetMetadata().GetName()),
		validateImage("image", config.GetImage()),
		validateCommand(config),
		validateEnvs(config.GetEnvs()),
		validateMounts(config.GetMounts()),
		validateDevices(config.GetDevices()),
		validateMaps(config.GetLabels(), config.GetAnnotations()),
		validateLogPath(config.GetLogPath()),
		validateEnum("stop_signal", config.GetStopSignal(), runtime.Signal_name),
		in("linux.resources", validateResources(config.GetLinux().GetResources())),
		in("linux.security_context", validateSecurity(config.GetLinux().GetSecurityContext())),
	))
}

// validateStop checks the end of a container.
func validateStop(r *runtime.StopContainerRequest) error {
	return firstOf(
		validateID("container_id", r.GetContainerId()),
		validateTimeout(r.GetTimeout()),
	)
}

// validateExecSync checks a command for a running container.
func validateExecSync(r *runtime.ExecSyncRequest) error {
	if len(r.GetCmd()) == 0 || r.GetCmd()[0] == "" {
		return invalid("cmd", "is empty: name the command to run")
	}
	return firstOf(
		validateID("container_id", r.GetContainerId()),
		validateTimeout(r.GetTimeout()),
		validateNoNUL("cmd", r.GetCmd()),
	)
}

// validatePull checks an image to be pulled.
func validatePull(r *runtime.PullImageRequest) error {
	return validateImage("image", r.GetImage())
}

// maxReference is far above any reference: a name of 255, a tag of 128 and a
// digest are some 500 bytes.
const maxReference = 4096

func validateImage(field string, spec *runtime.ImageSpec) error {
	ref := spec.GetImage()
	switch {
	case ref == "":
		return invalid(field+".image", "is empty: name the image")
	case len(ref) > maxReference:
		return invalid(field+".image", "is longer than %d bytes", maxReference)
	case strings.ContainsFunc(ref, isSpaceOrControl):
		return invalid(field+".image", "%q: must not contain spaces or control characters", ref)
	}
	return nil
}

func validateID(field, id string) error {
	if id == "" {
		return invalid(field, "is empty: name it by its id or a prefix of it")
	}
	return nil
}

func validateTimeout(seconds int64) error {
	if seconds < 0 {
		return invalid("timeout", "%d seconds: must not be negative", seconds)
	}
	return nil
}

func validateNoNUL(field string, values []string) error {
	for i, v := range values {
		if strings.ContainsRune(v, 0) {
			return invalid(fmt.Sprintf("%s[%d]", field, i), "%q: must not contain NUL characters", v)
		}
	}
	return nil
}

// validateEnum refuses numbers that a newer client may know and this runtime
// does not: taking them for the default would be a guess.
func validateEnum[E ~int32](field string, value E, names map[int32]string) error {
	if _, ok := names[int32(value)]; !ok {
		return invalid(field, "%d: this version of the runtime does not know the value", value)
	}
	return nil
}

// invalid makes the error for a field.
func invalid(field, format string, args ...any) error {
	return messages.Errorf(messages.Invalid, "%s %s", field, fmt.Sprintf(format, args...))
}

// in puts the enclosing field before an error's own.
func in(field string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s.%w", field, err)
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

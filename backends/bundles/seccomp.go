package bundles

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// profile is a seccomp profile as text: what it allows depends on the
// capabilities of the container, so it is made into rules for each.
type profile struct {
	body string // JSON; empty with builtin unset: unconfined
	// builtin is the default profile of Moby, which Kubernetes means by
	// RuntimeDefault.
	builtin bool
}

var (
	builtinProfile    = profile{builtin: true}
	unconfinedProfile = profile{}
)

// maxProfile is some thirty times the built-in one.
const maxProfile = 1 << 20

func loadProfile(field, path string, empty profile) (profile, error) {
	switch path {
	case "":
		return empty, nil
	case "unconfined":
		return unconfinedProfile, nil
	}
	return readProfile(field, path)
}

// readProfile reads a profile from the node.
func readProfile(field, path string) (profile, error) {
	if !filepath.IsAbs(path) {
		return profile{}, messages.Errorf(messages.Invalid, "%s: seccomp profile %q: must be an absolute path", field, path)
	}
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return profile{}, messages.Errorf(messages.Invalid, "%s: seccomp profile %s: %w", field, path, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return profile{}, messages.Errorf(messages.Invalid, "%s: %w", field, err)
	}
	defer func() { _ = f.Close() }()
	body, err := io.ReadAll(io.LimitReader(f, maxProfile+1))
	if err == nil && len(body) > maxProfile {
		err = fmt.Errorf("larger than %d bytes", maxProfile)
	}
	if err != nil {
		return profile{}, messages.Errorf(messages.Invalid, "%s: seccomp profile %s: %w", field, path, err)
	}
	// Tried at once, so that the error names the file.
	if _, err := seccomp.LoadProfile(string(body), bareSpec()); err != nil {
		return profile{}, messages.Errorf(messages.Invalid, "%s: seccomp profile %s: %w", field, path, err)
	}
	return profile{body: string(body)}, nil
}

func bareSpec() *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}}
}

// seccomp filters system calls. A container that says nothing is unconfined,
// as the CRI has it; the kubelet always says something. The pause process gets
// the node's default.
func (b *bundle) seccomp() error {
	p, asked, err := b.seccompProfile()
	if err != nil || p == unconfinedProfile {
		return err
	}
	if !b.node.seccomp {
		if asked {
			return messages.Errorf(messages.Invalid, "seccomp profile %q: this kernel has no seccomp", b.sc.GetSeccomp().GetLocalhostRef())
		}
		b.log.Warn("this kernel has no seccomp: the container runs unconfined")
		return nil
	}
	if p.builtin {
		b.spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(b.spec)
	} else {
		b.spec.Linux.Seccomp, err = seccomp.LoadProfile(p.body, b.spec)
	}
	if err != nil {
		return messages.Errorf(messages.Invalid, "seccomp profile: %w", err)
	}
	return nil
}

// seccompProfile picks the profile; asked says that it is one of the
// container's own choosing.
func (b *bundle) seccompProfile() (p profile, asked bool, err error) {
	switch {
	case b.r.Config == nil:
		return b.runtimeDefault(), false, nil
	case b.sc.GetPrivileged():
		return b.defaults.privileged, false, nil
	}
	want := b.sc.GetSeccomp()
	if want == nil {
		//lint:ignore SA1019 deprecated, and still sent by older clients
		if want, err = oldProfile("seccomp_profile_path", b.sc.GetSeccompProfilePath()); err != nil {
			return profile{}, false, err
		}
	}
	switch want.GetProfileType() {
	case runtime.SecurityProfile_RuntimeDefault:
		return b.runtimeDefault(), false, nil
	case runtime.SecurityProfile_Unconfined:
		return unconfinedProfile, false, nil
	case runtime.SecurityProfile_Localhost:
		p, err = readProfile("seccomp.localhost_ref", want.GetLocalhostRef())
		return p, true, err
	}
	return profile{}, false, messages.Errorf(messages.Invalid, "seccomp.profile_type %d is not known", want.GetProfileType())
}

// oldProfile understands the deprecated string forms (cri-api,
// LinuxContainerSecurityContext.seccomp_profile_path and apparmor_profile).
func oldProfile(field, text string) (*runtime.SecurityProfile, error) {
	ref, local := strings.CutPrefix(text, "localhost/")
	switch {
	case local && ref != "":
		return &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost, LocalhostRef: ref}, nil
	case text == "runtime/default", text == "docker/default":
		return &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault}, nil
	case text == "", text == "unconfined":
		return &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Unconfined}, nil
	}
	return nil, messages.Errorf(messages.Invalid, "%s %q: must be runtime/default, unconfined or localhost/<profile>", field, text)
}

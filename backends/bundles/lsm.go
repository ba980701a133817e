package bundles

import (
	"bytes"
	"context"
	"fmt"
	"hash/fnv"
	"os"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// apparmorProfiles lists what is loaded, one "name (mode)" a line.
const apparmorProfiles = "/sys/kernel/security/apparmor/profiles"

// apparmor confines the process by a profile that is loaded into the kernel;
// loading one is the operator's (apparmor_parser).
func (b *bundle) apparmor() error {
	if b.sc.GetPrivileged() {
		return nil
	}
	want := b.sc.GetApparmor()
	if want == nil {
		//lint:ignore SA1019 deprecated, and still sent by older clients
		text := b.sc.GetApparmorProfile()
		if text == "" {
			return b.defaultApparmor(false)
		}
		var err error
		if want, err = oldProfile("apparmor_profile", text); err != nil {
			return err
		}
	}
	switch want.GetProfileType() {
	case runtime.SecurityProfile_Unconfined:
		return nil
	case runtime.SecurityProfile_RuntimeDefault:
		return b.defaultApparmor(true)
	case runtime.SecurityProfile_Localhost:
		return b.localApparmor(want.GetLocalhostRef())
	}
	return messages.Errorf(messages.Invalid, "apparmor.profile_type %d is not known", want.GetProfileType())
}

func (b *bundle) localApparmor(name string) error {
	switch {
	case name == "":
		return messages.Errorf(messages.Invalid, "apparmor.localhost_ref is empty: name a loaded profile")
	case !b.node.apparmor:
		return messages.Errorf(messages.Invalid, "apparmor profile %q is asked for, but AppArmor is off on this node", name)
	case !apparmorLoaded(name):
		return messages.Errorf(messages.Invalid, "apparmor profile %q is not loaded: load it with apparmor_parser", name)
	}
	b.spec.Process.ApparmorProfile = name
	return nil
}

// defaultApparmor applies the configured profile. When it is not loaded, a
// container that asked for it by name of RuntimeDefault is refused, one that
// said nothing runs without.
func (b *bundle) defaultApparmor(asked bool) error {
	name := b.config.ApparmorProfile
	switch {
	case !b.node.apparmor || name == "" || name == "unconfined":
		return nil
	case apparmorLoaded(name):
		b.spec.Process.ApparmorProfile = name
		return nil
	case asked:
		return messages.Errorf(messages.Precondition,
			"apparmor profile %q (apparmor_profile of the configuration) is not loaded: load it with apparmor_parser", name)
	}
	b.log.Warn("the default AppArmor profile is not loaded: the container runs without", "profile", name)
	return nil
}

// apparmorLoaded believes in a profile when the list cannot be read (securityfs
// is not mounted everywhere); the runtime then finds out.
func apparmorLoaded(name string) bool {
	list, err := os.ReadFile(apparmorProfiles)
	if err != nil {
		return true
	}
	return bytes.HasPrefix(list, []byte(name+" (")) || bytes.Contains(list, []byte("\n"+name+" ("))
}

// selinux labels the process and what is mounted for it.
func (b *bundle) selinux() error {
	if !b.node.selinux {
		return nil
	}
	hostNetwork := b.r.Namespaces.Network == ""
	options := []string{"disable"}
	if !b.sc.GetPrivileged() && (!hostNetwork || !b.config.HostnetworkDisableSELinux) {
		options = labelOptions(b.r.Pod, b.sc.GetSelinuxOptions(), b.r.PodConfig.GetLinux().GetSecurityContext().GetSelinuxOptions())
	}
	process, mount, err := label.InitLabels(options)
	if err != nil {
		return messages.Errorf(messages.Invalid, "selinux_options: %w", err)
	}
	// The library keeps a list of levels in use; ours are a pod's for good.
	selinux.ReleaseLabel(process)
	b.spec.Process.SelinuxLabel = process
	b.spec.Linux.MountLabel = mount
	b.relabel(mount)
	return nil
}

// labelOptions takes the container's options before its pod's. A level that
// nobody chose is made from the pod's id, so that all containers of a pod have
// the same, and share its volumes.
func labelOptions(pod string, own, ofPod *runtime.SELinuxOption) []string {
	if own == nil {
		own = ofPod
	}
	level := own.GetLevel()
	if level == "" {
		level = levelOf(pod)
	}
	var options []string
	for _, o := range []struct{ key, value string }{
		{"user", own.GetUser()}, {"role", own.GetRole()}, {"type", own.GetType()}, {"level", level},
	} {
		if o.value != "" {
			options = append(options, o.key+":"+o.value)
		}
	}
	return options
}

// levelOf picks two different categories of the 1,024 there are.
func levelOf(pod string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(pod))
	sum := h.Sum32()
	low, high := sum%1024, (sum/1024)%1023
	if high >= low {
		high++
	}
	return fmt.Sprintf("s0:c%d,c%d", min(low, high), max(low, high))
}

// join runs slow work on the node that cannot be interrupted: the caller's
// wait ends with its context, the work goes on, and a second caller for the
// same work waits for the first's instead of adding a thread that hangs.
func (b *Backend) join(ctx context.Context, key string, work func() (any, error)) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case done := <-b.looks.DoChan(key, work):
		return done.Val, done.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

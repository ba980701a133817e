package bundles

import (
	"bytes"
	"context"
	_ "embed" // the profile
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// apparmorProfiles lists what is loaded, one "name (mode)" a line.
const apparmorProfiles = "/sys/kernel/security/apparmor/profiles"

// apparmor confines the process by a profile that is loaded into the kernel.
// The default one is ours, see below; others are the operator's to load.
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
		// The kubelet sends the bare name, critest and older clients prefix it.
		return b.localApparmor(strings.TrimPrefix(want.GetLocalhostRef(), "localhost/"))
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
			"apparmor profile %q (apparmor_profile of the configuration) is not loaded: load it with apparmor_parser, or see the daemon's log at its start for why ours could not be", name)
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

// DefaultApparmor is the name of the built-in profile.
const DefaultApparmor = "troupe-default"

// ownApparmor are the names under which the built-in profile is loaded. The
// second is what a configuration taken over from CRI-O may say: there, too, it
// is a profile that the runtime brings.
var ownApparmor = []string{DefaultApparmor, "crio-default"}

// apparmorText is the profile, with apparmorName where its name belongs. Not a
// text/template: that package finds methods by name, which keeps the linker from
// leaving out any method of the whole daemon.
//
//go:embed apparmor.profile
var apparmorText string

const apparmorName = "{{.Name}}"

// loadLimit is how long apparmor_parser may take: it compiles the profile.
const loadLimit = time.Minute

// Reload loads the built-in AppArmor profile again, for when somebody has
// unloaded or replaced it.
func (b *Backend) Reload() { b.loadApparmor() }

// loadApparmor replaces the built-in profile in the kernel by what this version
// brings; containers that run get the new one at once. A node where that fails
// serves all pods that do not ask for the profile by name.
func (b *Backend) loadApparmor() {
	name := b.config.ApparmorProfile
	if !b.node.apparmor || !slices.Contains(ownApparmor, name) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), loadLimit)
	defer cancel()
	if err := parseApparmor(ctx, name, "--replace", "--skip-cache"); err != nil {
		b.log.Error("the default AppArmor profile could not be loaded: containers that ask for RuntimeDefault are refused, others run without", "profile", name, "error", err)
		return
	}
	b.log.Info("AppArmor profile loaded", "profile", name)
}

// parseApparmor gives the built-in profile to apparmor_parser(8).
func parseApparmor(ctx context.Context, name string, options ...string) error {
	parser, err := findParser()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, parser, append(options, "--quiet")...)
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(apparmorText, apparmorName, name))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", parser, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// findParser looks in the system's directories too: a service's PATH may lack
// them.
func findParser() (string, error) {
	for _, name := range []string{"apparmor_parser", "/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("apparmor_parser is not installed: install the package apparmor, or set apparmor_profile to \"unconfined\"")
}

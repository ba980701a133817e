package bundles

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestTheBuiltinAppArmorProfileCompiles needs apparmor_parser (tools/setup),
// not a kernel with AppArmor.
func TestTheBuiltinAppArmorProfileCompiles(t *testing.T) {
	for _, name := range ownApparmor {
		if err := parseApparmor(t.Context(), name, "--skip-kernel-load", "--skip-cache"); err != nil {
			t.Error(err)
		}
	}
	if err := parseApparmor(t.Context(), "}{", "--skip-kernel-load", "--skip-cache"); err == nil {
		t.Error("a profile that is none was taken")
	}
}

// confined runs a shell command under a profile.
func confined(t *testing.T, profile, command string) (string, error) {
	t.Helper()
	type result struct {
		out string
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // the thread is the one that execs, and ends with it
		err := os.WriteFile("/proc/thread-self/attr/apparmor/exec", []byte("exec "+profile), 0)
		if err != nil {
			err = os.WriteFile("/proc/thread-self/attr/exec", []byte("exec "+profile), 0)
		}
		if err != nil {
			done <- result{"", err}
			return
		}
		out, err := exec.Command("sh", "-c", command).CombinedOutput()
		done <- result{strings.TrimSpace(string(out)), err}
	}()
	r := <-done
	return r.out, r.err
}

// TestTheBuiltinAppArmorProfileHolds runs where the kernel has AppArmor, as in
// the Debian guest (make vm-test).
func TestTheBuiltinAppArmorProfileHolds(t *testing.T) {
	n := testNode(t)
	n.apparmor = startsWith("/sys/module/apparmor/parameters/enabled", "Y")
	if !n.apparmor {
		t.Skip("AppArmor is off in this kernel")
	}
	if out, err := exec.Command("mount", "-t", "securityfs", "none", "/sys/kernel/security").CombinedOutput(); err != nil {
		t.Logf("securityfs: %s", out) // it is there already
	}
	b := newTest(t, n, func(c *Config) { c.ApparmorProfile = DefaultApparmor })
	b.Reload()
	if !apparmorLoaded(DefaultApparmor) || apparmorLoaded("no-such-profile") {
		t.Fatal("it is not loaded, or everything seems to be")
	}
	t.Cleanup(func() {
		if err := parseApparmor(context.Background(), DefaultApparmor, "--remove"); err != nil {
			t.Error(err)
		}
	})
	r := request(t)
	if spec, _ := written(t, b, r); spec.Process.ApparmorProfile != DefaultApparmor {
		t.Errorf("the profile of a container that says nothing is %q", spec.Process.ApparmorProfile)
	}
	for _, ref := range []string{DefaultApparmor, "localhost/" + DefaultApparmor} {
		sc(&r).Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: ref}
		if spec, _ := written(t, b, r); spec.Process.ApparmorProfile != DefaultApparmor {
			t.Errorf("localhost_ref %q gives the profile %q", ref, spec.Process.ApparmorProfile)
		}
	}
	privileged(&r)
	if spec, _ := written(t, b, r); spec.Process.ApparmorProfile != "" {
		t.Errorf("the profile of a privileged container is %q", spec.Process.ApparmorProfile)
	}
	for command, want := range map[string]bool{
		"cat /proc/self/attr/current | grep -q 'troupe-default (enforce)'":  true,
		"echo ok > /tmp/x && rm /tmp/x && cat /proc/sys/vm/swappiness":      true,
		"echo 1000000 > /proc/sys/kernel/shmmax":                            true,
		"cat /proc/sys/net/core/somaxconn > /proc/sys/net/core/somaxconn":   true,
		"hostname > /proc/sys/kernel/hostname":                              true,
		"sleep 100 & kill $!":                                               true,
		"mount -t tmpfs none /mnt":                                          false,
		"umount /proc":                                                      false,
		"head -c1 /proc/kcore":                                              false,
		"echo 60 > /proc/sys/vm/swappiness":                                 false,
		"echo core > /proc/sys/kernel/core_pattern":                         false,
		"echo 1 > /proc/sys/kernel/panic_on_oops":                           false,
		"echo 16 > /proc/sys/kernel/sysrq":                                  false,
		"echo /bin/x > /proc/sys/kernel/modprobe":                           false,
		"echo 1000 > /proc/sys/fs/file-max":                                 false,
		"ls /sys/kernel/security/apparmor":                                  false,
		"ls /sys/firmware/acpi/tables && cat /sys/firmware/acpi/pm_profile": false,
		"echo changeprofile unconfined > /proc/self/attr/current":           false,
		"kill -0 $PPID": false, // the unconfined parent
	} {
		out, err := confined(t, DefaultApparmor, command)
		if (err == nil) != want {
			t.Errorf("%s: works %v, want %v: %s", command, err == nil, want, out)
		}
	}
}

//go:build linux && cgo && seccomp

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

const head = 16 + 2*sha256.Size // of a ready program

func encode(t *testing.T, profile *specs.LinuxSeccomp) []byte {
	t.Helper()
	config, err := specconv.SetupSeccomp(profile)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func runtimeDefault(t *testing.T, caps ...string) *specs.LinuxSeccomp {
	t.Helper()
	p, err := moby.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func errno(n uint) *uint { return &n }

func denying(code uint, names ...string) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: names, Action: specs.ActErrno, ErrnoRet: errno(code)}}}
}

// synthetic profiles have, together, every action, comparison, flag and architecture.
func synthetic() map[string]*specs.LinuxSeccomp {
	ops := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpMaskedEqual}
	conditions := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: errno(38)}
	calls := []string{"read", "ioctl", "socket", "clone", "prctl", "fcntl", "mmap"}
	for i, op := range ops {
		conditions.Syscalls = append(conditions.Syscalls, specs.LinuxSyscall{
			Names: []string{calls[i]}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 1, Value: 0xfffffffff0, ValueTwo: 0x30, Op: op}, {Index: 5, Value: 7, ValueTwo: 1 << 40, Op: op}},
		})
	}
	conditions.Syscalls = append(conditions.Syscalls, specs.LinuxSyscall{
		Names: []string{"personality", "no_such_call"}, Action: specs.ActTrap,
		Args: []specs.LinuxSeccompArg{{Index: 0, Value: 0, Op: specs.OpEqualTo}, {Index: 0, Value: 8, Op: specs.OpEqualTo}},
	})
	actions := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog}}
	for name, action := range map[string]specs.LinuxSeccompAction{
		"mount": specs.ActKill, "umount2": specs.ActKillProcess, "swapon": specs.ActKillThread, "swapoff": specs.ActTrap,
		"reboot": specs.ActTrace, "keyctl": specs.ActLog, "bpf": specs.ActNotify,
	} {
		actions.Syscalls = append(actions.Syscalls, specs.LinuxSyscall{Names: []string{name}, Action: action})
	}
	everywhere := denying(95, "mkdir", "chmod", "socketcall", "open")
	everywhere.Architectures = []specs.Arch{
		specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64, specs.ArchMIPSEL, specs.ArchMIPSEL64,
		specs.ArchMIPSEL64N32, specs.ArchPPC64LE, specs.ArchRISCV64,
	}
	return map[string]*specs.LinuxSeccomp{
		"conditions": conditions, "actions": actions, "all little endian architectures": everywhere, "one rule": denying(1, "mkdir"),
		"no rules": {DefaultAction: specs.ActAllow}, "the largest errno": denying(4094, "mkdir"),
	}
}

func TestAReadyProgramIsByteForByteTheOriginalLibrarys(t *testing.T) {
	original := filepath.Join(t.TempDir(), "original")
	build := exec.Command("go", "build", "-o", original, ".")
	build.Dir = "testdata/original"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build with the original bindings: %v\n%s", err, out)
	}
	profiles := synthetic()
	profiles["RuntimeDefault"] = runtimeDefault(t)
	profiles["RuntimeDefault, privileges"] = runtimeDefault(t, "CAP_SYS_ADMIN", "CAP_BPF", "CAP_SYS_PTRACE")
	for name, p := range profiles {
		t.Run(name, func(t *testing.T) {
			data := encode(t, p)
			ready, err := programOf(data)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(original)
			cmd.Stdin, cmd.Stderr = bytes.NewReader(data), t.Output()
			want, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			if got := ready[head:]; len(want) == 0 || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, the original has %d", len(got), len(want))
			}
			again, err := programOf(data)
			if err != nil || !bytes.Equal(again, ready) {
				t.Errorf("a second time it is another: %v", err)
			}
		})
	}
	if status, _ := os.ReadFile("/proc/self/status"); bytes.Contains(status, []byte("Seccomp:\t2")) {
		t.Error("compiling has put a filter into this process")
	}
}

// exported is the program of a filter that refuses a system call.
func exported(t *testing.T, call string, code int16) []byte {
	t.Helper()
	f, err := libseccomp.NewFilter(libseccomp.ActAllow)
	if err != nil {
		t.Fatal(err)
	}
	number, err := libseccomp.GetSyscallFromName(call)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.AddRule(number, libseccomp.ActErrno.SetReturnCode(code)); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "bpf"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := f.ExportBPF(file); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// readyFor is the ready program of exported's filter, with other code in it.
func readyFor(t *testing.T, call string, code int16, program []byte) []byte {
	t.Helper()
	ready, err := libseccomp.Capture(func() error {
		f, err := libseccomp.NewFilter(libseccomp.ActAllow)
		if err != nil {
			return err
		}
		number, err := libseccomp.GetSyscallFromName(call)
		if err != nil {
			return err
		}
		return errors.Join(f.AddRule(number, libseccomp.ActErrno.SetReturnCode(code)), f.ExportBPF(os.Stdout))
	})
	if err != nil {
		t.Fatal(err)
	}
	key := ready[16 : 16+sha256.Size]
	sum := sha256.Sum256(append(slices.Clone(key), program...))
	return slices.Concat(ready[:16+sha256.Size], sum[:], program)
}

func TestAFilterTakesItsOwnReadyProgramAndNoOther(t *testing.T) {
	mkdir, chmod := exported(t, "mkdir", 1), exported(t, "chmod", 1)
	marker := bytes.Repeat([]byte{6, 0, 0, 0, 1, 2, 3, 4}, 3)
	if err := libseccomp.Offer(readyFor(t, "mkdir", 1, marker)); err != nil {
		t.Fatal(err)
	}
	if got := exported(t, "mkdir", 1); !bytes.Equal(got, marker) {
		t.Error("the ready program is not taken")
	}
	if got := exported(t, "chmod", 1); !bytes.Equal(got, chmod) {
		t.Error("another rule's filter has changed")
	}
	if got := exported(t, "mkdir", 2); bytes.Equal(got, marker) || bytes.Equal(got, mkdir) {
		t.Error("another errno is another filter")
	}
}

// closesOnExec says whether the user's process would not get the file.
func closesOnExec(t *testing.T, f *os.File) bool {
	t.Helper()
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
	if err != nil {
		t.Fatal(err)
	}
	return flags&unix.FD_CLOEXEC != 0
}

func TestOnlyAWholeSealedProgramIsTakenAndNoFileIsPassedOn(t *testing.T) {
	ready := func(code int16) []byte {
		return readyFor(t, "rmdir", code, bytes.Repeat([]byte{6, 0, 0, 0, 9, 9, 9, 9}, 2))
	}
	taken := func(code int16) bool { return len(exported(t, "rmdir", code)) == 16 }
	unsealed := func(data []byte) *os.File {
		fd, err := unix.MemfdCreate("test", unix.MFD_ALLOW_SEALING)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "test")
		_, _ = f.Write(data)
		return f
	}
	sealed := func(data []byte) *os.File {
		f, err := sealedFile(data)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	damaged := ready(12)
	damaged[len(damaged)-1] ^= 1
	pipe, w, _ := os.Pipe()
	defer w.Close()
	files := []struct {
		name string
		file *os.File
		want bool
	}{
		{"sealed and whole", sealed(ready(10)), true},
		{"not sealed", unsealed(ready(11)), false},
		{"damaged", sealed(damaged), false},
		{"cut short", sealed(ready(13)[:head+8]), false},
		{"only a head", sealed(ready(14)[:head]), false},
		{"of another format", sealed(slices.Concat([]byte("troupe seccomp 0"), ready(15)[16:])), false},
		{"too large", sealed(append(ready(16), make([]byte, libseccomp.MaxSize)...)), false},
		{"no memfd", pipe, false},
	}
	for i, c := range files {
		defer c.file.Close()
		if _, err := unix.FcntlInt(c.file.Fd(), unix.F_SETFD, 0); err != nil {
			t.Fatal(err)
		}
		takeProgram(int(c.file.Fd()))
		if got := taken(int16(10 + i)); got != c.want {
			t.Errorf("%s: taken: %v", c.name, got)
		}
		if !closesOnExec(t, c.file) {
			t.Errorf("%s: the file stays open across execve", c.name)
		}
	}
	if n, err := files[0].file.WriteAt([]byte("x"), 0); err == nil {
		t.Errorf("%d bytes of a sealed program were written", n)
	}
	if err := files[0].file.Truncate(0); err == nil {
		t.Error("a sealed program was cut")
	}
}

func TestABadProfileIsRefusedByTheCompilerAsByAnInit(t *testing.T) {
	m := newMonitor(paths{}, false, 0, nil, slog.New(slog.NewTextHandler(t.Output(), nil)))
	good := encode(t, runtimeDefault(t))
	data, err := m.profiles.get(good, m.compile)
	if err != nil {
		t.Fatal(err)
	}
	if here, err := programOf(good); err != nil || !bytes.Equal(here, data) {
		t.Errorf("the helper's program is another: %v", err)
	}
	for _, bad := range []string{
		`{`, `{"default_action":7}`, `{"default_action":99}`, `{"default_action":4,"architectures":["pdp11"]}`,
		`{"default_action":4,"architectures":["s390x"]}`, // of the other byte order
		`{"default_action":4,"syscalls":[{"name":"mkdir","action":2,"errnoRet":4095}]}`,
	} {
		if _, err := m.profiles.get([]byte(bad), m.compile); err == nil {
			t.Errorf("%s was compiled", bad)
		}
	}
	// The same by libcontainer, without a helper: what is wrong stays an error.
	if _, err := seccomp.InitSeccomp(&configs.Seccomp{DefaultAction: configs.Notify}); err == nil {
		t.Error("a bad profile was loaded")
	}
	if len(m.children.known) != 0 || m.profiles.byUse.Len() != 1 {
		t.Errorf("left: %d children, %d profiles", len(m.children.known), m.profiles.byUse.Len())
	}
}

func TestAProfileIsCompiledOnceAndTheLeastUsedIsForgotten(t *testing.T) {
	c := newProfiles()
	var calls atomic.Int32
	release := make(chan struct{})
	slow := func(data []byte) ([]byte, error) {
		calls.Add(1)
		<-release
		return data, nil
	}
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if got, err := c.get([]byte("p"), slow); err != nil || string(got) != "p" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	close(release)
	group.Wait()
	for i := range 3 * profilesMax {
		_, _ = c.get([]byte{byte(i), byte(i >> 8)}, slow)
		_, _ = c.get([]byte("p"), slow) // stays in use
	}
	if n := calls.Load(); n != 1+3*profilesMax {
		t.Errorf("%d times compiled", n)
	}
	if c.byUse.Len() != profilesMax || len(c.known) != profilesMax {
		t.Errorf("%d and %d profiles are kept", c.byUse.Len(), len(c.known))
	}
	failing := func([]byte) ([]byte, error) { calls.Add(1); return nil, io.ErrUnexpectedEOF }
	for range 2 {
		if _, err := c.get([]byte("bad"), failing); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	}
	if n := calls.Load(); n != 3+3*profilesMax {
		t.Errorf("a failure was kept: %d", n)
	}
}

func TestContainersWithEqualProfilesShareOne(t *testing.T) {
	profile := func(call string) *configs.Seccomp {
		return &configs.Seccomp{DefaultAction: configs.Allow, Syscalls: []*configs.Syscall{{Name: call, Action: configs.Errno}}}
	}
	p := newProfiles()
	first, second, other := p.same(profile("bpf")), p.same(profile("bpf")), p.same(profile("acct"))
	if first.Syscalls[0] != second.Syscalls[0] {
		t.Error("two containers with the same profile have two copies of it")
	}
	if first.Syscalls[0] == other.Syscalls[0] || other.Syscalls[0].Name != "acct" {
		t.Error("one container has the profile of another")
	}
	if p.same(nil) != nil {
		t.Error("a container without a profile has got one")
	}
	for range 2 * profilesMax {
		p.same(profile(fmt.Sprint(len(p.told), time.Now().UnixNano())))
	}
	if len(p.told) > profilesMax {
		t.Errorf("%d profiles are kept", len(p.told))
	}
}

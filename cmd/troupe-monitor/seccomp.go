//go:build linux && cgo

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

const (
	// compileCommand makes a process of this binary the compiler of a profile.
	compileCommand = "seccomp-compile"
	// compileLimit is how long it may take; it takes 0.05 s. Afterwards the
	// container's init compiles for itself.
	compileLimit = 10 * time.Second
	// profileMax is how large a profile may be, as JSON; RuntimeDefault has 30 KiB.
	profileMax = 8 << 20
	// readyFd is where an init finds its ready program: behind stdio.
	readyFd = 3

	allSeals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
)

// giveProgram lets the process find its seccomp program ready, and returns what
// gives the file back once the process is made. Without a program, for whatever
// reason, the process compiles its profile itself: it is never less confined.
func (e *inProcess) giveProgram(p *process) (done func()) {
	nothing := func() {}
	config := e.lc.Config()
	if config.Seccomp == nil {
		return nothing
	}
	file, err := e.c.m.readyFile(config.Seccomp)
	if err != nil {
		e.c.log.Warn("no ready seccomp program: the process compiles its profile itself, which takes longer", "err", err)
		return nothing
	}
	p.ExtraFiles = []*os.File{file}
	return func() { file.Close() }
}

func (m *monitor) readyFile(profile *configs.Seccomp) (*os.File, error) {
	program, err := m.readyProgram(profile)
	if err != nil {
		return nil, err
	}
	return sealedFile(program)
}

// readyProgram gives what libseccomp.Offer takes.
func (m *monitor) readyProgram(profile *configs.Seccomp) ([]byte, error) {
	data, err := json.Marshal(profile)
	if err != nil {
		return nil, fmt.Errorf("encode the profile: %w", err)
	}
	return m.profiles.get(data, m.compile)
}

// giveProgram does the same for crun, which takes a ready program from an
// annotation (crun(1), run.oci.seccomp_bpf_data) and uses it for execs as well.
// The profile stays in the spec: a crun that does not know the annotation
// compiles it.
func (e *external) giveProgram(spec *specs.Spec) error {
	profile := spec.Linux.Seccomp
	if e.rt.Kind != "crun" || profile == nil || profile.ListenerPath != "" {
		return nil
	}
	config, err := specconv.SetupSeccomp(profile)
	if err != nil {
		return fmt.Errorf("the seccomp profile: %w", err)
	}
	program, err := e.c.m.readyProgram(config)
	if err != nil {
		return err
	}
	raw, err := libseccomp.Program(program)
	if err != nil {
		return err
	}
	if spec.Annotations == nil {
		spec.Annotations = map[string]string{}
	}
	spec.Annotations["run.oci.seccomp_bpf_data"] = base64.StdEncoding.EncodeToString(raw)
	return nil
}

// compile has a process of its own compile a profile: libseccomp is a good deal
// of C, and this process is every container's parent. It gives what
// libseccomp.Offer takes.
func (m *monitor) compile(profile []byte) ([]byte, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), compileLimit)
	defer cancel()
	var out, diag bytes.Buffer
	cmd := exec.CommandContext(ctx, "/proc/self/exe", compileCommand)
	cmd.Env, cmd.Dir, cmd.WaitDelay = []string{}, "/", time.Second
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(profile), &out, &diag
	if err := m.children.run(cmd); err != nil {
		return nil, fmt.Errorf("compile the seccomp profile: %w: %s", err, strings.TrimSpace(diag.String()))
	}
	if err := libseccomp.Check(out.Bytes()); err != nil {
		return nil, fmt.Errorf("compile the seccomp profile: %w", err)
	}
	m.log.Info("compiled a seccomp profile", "bytes", out.Len(), "took", time.Since(began))
	return out.Bytes(), nil
}

// compileProfile is the main function of that process: a profile as JSON on
// stdin, a ready program on stdout. libcontainer itself translates the profile,
// as it will in the init that looks for the program.
func compileProfile() int {
	err := func() error {
		data, err := io.ReadAll(io.LimitReader(os.Stdin, profileMax+1))
		if err != nil {
			return fmt.Errorf("read the profile: %w", err)
		}
		if len(data) > profileMax {
			return fmt.Errorf("the profile has more than %d bytes", profileMax)
		}
		program, err := programOf(data)
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(program)
		return err
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func programOf(profile []byte) ([]byte, error) {
	var config configs.Seccomp
	if err := json.Unmarshal(profile, &config); err != nil {
		return nil, fmt.Errorf("decode the profile: %w", err)
	}
	return libseccomp.Capture(func() error {
		_, err := seccomp.InitSeccomp(&config)
		return err
	})
}

// sealedFile is a file in memory that nobody can change any more. Each process
// gets one of its own, so that containers share nothing by it.
func sealedFile(data []byte) (_ *os.File, err error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("seccomp", flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("seccomp", flags)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd for the seccomp program: %w", err)
	}
	file := os.NewFile(uintptr(fd), "seccomp")
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	if _, err := file.Write(data); err != nil {
		return nil, fmt.Errorf("write the seccomp program: %w", err)
	}
	if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, allSeals); err != nil {
		return nil, fmt.Errorf("seal the seccomp program: %w", err)
	}
	return file, nil
}

// takeProgram is the other end, in an init: it makes the program known to
// libseccomp's filters if there is one. Anything odd is as if there were none.
//
// libcontainer counts the file among those that the user's process gets, so it
// is marked to be closed by execve. It is not closed before: whatever else got
// its number would then be passed on (CVE-2024-21626 was such a file).
func takeProgram(fd int) {
	unix.CloseOnExec(fd) // nothing but stdio goes to a user's process, whatever this is
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&allSeals != allSeals {
		return
	}
	data := make([]byte, libseccomp.MaxSize+1)
	n, err := unix.Pread(fd, data, 0)
	if err != nil {
		return
	}
	_ = libseccomp.Offer(data[:n]) // refused: then it is compiled
}

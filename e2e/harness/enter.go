package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stage says how far a program is on its way into its own node: nothing is the
// caller, "init" is process 1 of the new namespaces, "inside" does the work.
const stage = "TROUPE_LAB_STAGE"

// baseDir names the directory all labs of the run are in. The caller's stage
// removes it, and the cgroups with its name, also when the work crashed.
const baseDir = "TROUPE_LAB_DIR"

// Enter moves the program into mount, network and process namespaces of its
// own by running itself again. It returns only in the copy that is inside; the
// others end with that copy's exit status. So a test sees every process and
// rule there is and all of them are its own, whatever else the machine does,
// and whatever is left when it ends, ends with it.
//
// Call it first in main or TestMain, as root.
func Enter() {
	var code int
	var err error
	switch os.Getenv(stage) {
	case "inside":
		return
	case "init":
		code, err = beInit()
	default:
		code, err = unshare()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "private node:", err)
		code = 1
	}
	os.Exit(code)
}

func unshare() (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("needs root: it makes namespaces, mounts and cgroups; run it as root")
	}
	base, err := os.MkdirTemp("", "lab")
	if err != nil {
		return 0, err
	}
	if err := os.Chmod(base, 0o711); err != nil { // users of pods' user namespaces pass
		return 1, err
	}
	defer tidy(base)
	runtime.LockOSThread() // the parent-death signal is tied to the thread
	cmd := again("init")
	cmd.Env = append(cmd.Env, baseDir+"="+base)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("making namespaces: %w", err)
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	return exitCode(cmd.ProcessState.Sys().(syscall.WaitStatus)), nil
}

// tidy removes what a crash left; after a good end there is nothing.
func tidy(base string) {
	if err := errors.Join(removeCgroups(filepath.Base(base)), os.RemoveAll(base)); err != nil {
		fmt.Fprintln(os.Stderr, "private node: tidying up:", err)
	}
}

// beInit is process 1: it sets up what a fresh namespace lacks, runs the work,
// and reaps what the work leaves behind, as init does on a node.
func beInit() (int, error) {
	if err := prepare(); err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	cmd := again("inside")
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 0, fmt.Errorf("waiting for the work: %w", err)
		case pid == cmd.Process.Pid:
			return exitCode(status), nil
		}
	}
}

func prepare() error {
	// Private first, so that nothing of ours reaches the machine; then shared
	// among ourselves, as a node's root is (mount propagation needs it).
	for _, flags := range []uintptr{unix.MS_REC | unix.MS_PRIVATE, unix.MS_REC | unix.MS_SHARED} {
		if err := unix.Mount("", "/", "", flags, ""); err != nil {
			return fmt.Errorf("setting mount propagation of /: %w", err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("setting lo up: %w", err)
	}
	return nil
}

func again(next string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), stage+"="+next)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}

func exitCode(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

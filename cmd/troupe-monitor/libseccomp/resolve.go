package seccomp

/*
#cgo pkg-config: libseccomp
#include <stdlib.h>
#include <seccomp.h>

#if SCMP_VER_MAJOR > 2 || SCMP_VER_MINOR >= 6
#define MAX_API 7
#else
#define MAX_API 6
#endif
*/
import "C"

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"
)

// VersionError says that libseccomp or the kernel is too old for something.
type VersionError struct {
	what         string
	level, needs uint
}

func (e *VersionError) Error() string {
	major, minor, micro := GetLibraryVersion()
	return fmt.Sprintf("seccomp: %s needs API level %d; libseccomp %d.%d.%d on this kernel has %d",
		e.what, e.needs, major, minor, micro, e.level)
}

// needAPI is the check before everything that came after API level 2.
func needAPI(what string, level uint) error {
	if has, _ := GetAPI(); has < level {
		return &VersionError{what, has, level}
	}
	return nil
}

// GetLibraryVersion is the version of the libseccomp in use.
func GetLibraryVersion() (major, minor, micro uint) {
	v := C.seccomp_version()
	return uint(v.major), uint(v.minor), uint(v.micro)
}

// GetAPI is what library and kernel can do together, see seccomp_api_get(3);
// no more than what the headers of the build know.
func GetAPI() (uint, error) {
	level := uint(C.seccomp_api_get())
	if level == 0 {
		return 0, errors.New("seccomp: libseccomp does not tell its API level")
	}
	return min(level, C.MAX_API), nil
}

// GetArchFromString finds an architecture by its name in any case.
func GetArchFromString(name string) (ScmpArch, error) {
	name = strings.ToLower(name)
	switch name {
	case "x86-64", "x86_64", "x64":
		return ArchAMD64, nil
	case "aarch64":
		return ArchARM64, nil
	case "loongarch64":
		return ArchLOONGARCH64, nil
	}
	for a := ArchX86; int(a) < len(archs); a++ {
		if archs[a].name == name {
			return a, nil
		}
	}
	return ArchInvalid, fmt.Errorf("seccomp: no such architecture: %q", name)
}

// GetNativeArch is the architecture of this machine.
func GetNativeArch() (ScmpArch, error) {
	token := uint32(C.seccomp_arch_native())
	for a := ArchX86; int(a) < len(archs); a++ {
		if archs[a].token == token {
			return a, nil
		}
	}
	return ArchInvalid, fmt.Errorf("seccomp: this machine's architecture is not known: %#x", token)
}

// ScmpSyscall is a system call's number; libseccomp gives negative ones to
// those that an architecture does not have.
type ScmpSyscall int32

// ErrSyscallDoesNotExist is the error for a name that libseccomp does not know.
var ErrSyscallDoesNotExist = errors.New("seccomp: libseccomp knows no system call of that name")

// GetSyscallFromName finds a system call of the native architecture.
func GetSyscallFromName(name string) (ScmpSyscall, error) {
	return GetSyscallFromNameByArch(name, ArchNative)
}

// GetSyscallFromNameByArch finds a system call's number in an architecture.
func GetSyscallFromNameByArch(name string, arch ScmpArch) (ScmpSyscall, error) {
	token, err := arch.token()
	if err != nil {
		return 0, err
	}
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	number := C.seccomp_syscall_resolve_name_arch(C.uint32_t(token), cname)
	if number == C.__NR_SCMP_ERROR {
		return 0, ErrSyscallDoesNotExist
	}
	return ScmpSyscall(number), nil
}

package seccomp

/*
#include <seccomp.h>

#if SCMP_VER_MAJOR < 2 || (SCMP_VER_MAJOR == 2 && SCMP_VER_MINOR < 5)
#error "libseccomp 2.5.0 or later is needed"
#endif

// Architectures that came after 2.5.0. No token has this value.
#define ARCH_ABSENT 0xffffffffU
#ifndef SCMP_ARCH_LOONGARCH64
#define SCMP_ARCH_LOONGARCH64 ARCH_ABSENT
#endif
#ifndef SCMP_ARCH_M68K
#define SCMP_ARCH_M68K ARCH_ABSENT
#endif
#ifndef SCMP_ARCH_SH
#define SCMP_ARCH_SH ARCH_ABSENT
#endif
#ifndef SCMP_ARCH_SHEB
#define SCMP_ARCH_SHEB ARCH_ABSENT
#endif

// What Go cannot call: macros with an argument.
enum { ACT_ERRNO = SCMP_ACT_ERRNO(0), ACT_TRACE = SCMP_ACT_TRACE(0) };
*/
import "C"

import (
	"errors"
	"fmt"
)

// ScmpArch names an architecture, that is a table of system calls.
type ScmpArch uint

// The architectures that libseccomp knows.
const (
	ArchInvalid ScmpArch = iota
	ArchNative
	ArchX86
	ArchAMD64
	ArchX32
	ArchARM
	ArchARM64
	ArchMIPS
	ArchMIPS64
	ArchMIPS64N32
	ArchMIPSEL
	ArchMIPSEL64
	ArchMIPSEL64N32
	ArchPPC
	ArchPPC64
	ArchPPC64LE
	ArchS390
	ArchS390X
	ArchPARISC
	ArchPARISC64
	ArchRISCV64
	ArchLOONGARCH64
	ArchM68K
	ArchSH
	ArchSHEB
)

// archs holds, for each architecture, its name here and libseccomp's token.
var archs = [...]struct {
	name  string
	token uint32
}{
	ArchInvalid:     {"invalid", C.ARCH_ABSENT},
	ArchNative:      {"native", C.SCMP_ARCH_NATIVE},
	ArchX86:         {"x86", C.SCMP_ARCH_X86},
	ArchAMD64:       {"amd64", C.SCMP_ARCH_X86_64},
	ArchX32:         {"x32", C.SCMP_ARCH_X32},
	ArchARM:         {"arm", C.SCMP_ARCH_ARM},
	ArchARM64:       {"arm64", C.SCMP_ARCH_AARCH64},
	ArchMIPS:        {"mips", C.SCMP_ARCH_MIPS},
	ArchMIPS64:      {"mips64", C.SCMP_ARCH_MIPS64},
	ArchMIPS64N32:   {"mips64n32", C.SCMP_ARCH_MIPS64N32},
	ArchMIPSEL:      {"mipsel", C.SCMP_ARCH_MIPSEL},
	ArchMIPSEL64:    {"mipsel64", C.SCMP_ARCH_MIPSEL64},
	ArchMIPSEL64N32: {"mipsel64n32", C.SCMP_ARCH_MIPSEL64N32},
	ArchPPC:         {"ppc", C.SCMP_ARCH_PPC},
	ArchPPC64:       {"ppc64", C.SCMP_ARCH_PPC64},
	ArchPPC64LE:     {"ppc64le", C.SCMP_ARCH_PPC64LE},
	ArchS390:        {"s390", C.SCMP_ARCH_S390},
	ArchS390X:       {"s390x", C.SCMP_ARCH_S390X},
	ArchPARISC:      {"parisc", C.SCMP_ARCH_PARISC},
	ArchPARISC64:    {"parisc64", C.SCMP_ARCH_PARISC64},
	ArchRISCV64:     {"riscv64", C.SCMP_ARCH_RISCV64},
	ArchLOONGARCH64: {"loong64", C.SCMP_ARCH_LOONGARCH64},
	ArchM68K:        {"m68k", C.SCMP_ARCH_M68K},
	ArchSH:          {"sh", C.SCMP_ARCH_SH},
	ArchSHEB:        {"sheb", C.SCMP_ARCH_SHEB},
}

func (a ScmpArch) String() string {
	if int(a) < len(archs) {
		return archs[a].name
	}
	return fmt.Sprintf("architecture %#x", uint(a))
}

// token is libseccomp's value for an architecture.
func (a ScmpArch) token() (uint32, error) {
	if a == ArchInvalid || int(a) >= len(archs) {
		return 0, fmt.Errorf("seccomp: no such architecture: %#x", uint(a))
	}
	if archs[a].token == C.ARCH_ABSENT {
		return 0, fmt.Errorf("seccomp: this libseccomp does not know the architecture %v", a)
	}
	return archs[a].token, nil
}

// ScmpAction is what happens to a system call: one of the constants below in
// the low 16 bits, and above them the code of ActErrno and ActTrace.
type ScmpAction uint

// The actions. ActKillThread ends the calling thread only.
const (
	ActInvalid ScmpAction = iota
	ActKillThread
	ActTrap
	ActNotify
	ActErrno
	ActTrace
	ActAllow
	ActLog
	ActKillProcess
)

// SetReturnCode gives the action with another code. Actions other than ActErrno
// and ActTrace have none and stay what they are.
func (a ScmpAction) SetReturnCode(code int16) ScmpAction {
	if kind := a & 0xffff; kind == ActErrno || kind == ActTrace {
		return kind | ScmpAction(uint16(code))<<16
	}
	return a
}

// native is the action as the kernel has it.
func (a ScmpAction) native() (uint32, error) {
	code := uint32(a >> 16 & 0xffff)
	switch a & 0xffff {
	case ActErrno:
		return C.ACT_ERRNO | code, nil
	case ActTrace:
		return C.ACT_TRACE | code, nil
	}
	switch a { // these have no code
	case ActKillThread:
		return C.SCMP_ACT_KILL_THREAD, nil
	case ActKillProcess:
		return C.SCMP_ACT_KILL_PROCESS, nil
	case ActTrap:
		return C.SCMP_ACT_TRAP, nil
	case ActNotify:
		return C.SCMP_ACT_NOTIFY, nil
	case ActLog:
		return C.SCMP_ACT_LOG, nil
	case ActAllow:
		return C.SCMP_ACT_ALLOW, nil
	}
	return 0, fmt.Errorf("seccomp: no such action: %#x", uint(a))
}

// ScmpCompareOp is how a condition compares an argument of a system call.
type ScmpCompareOp uint

// The comparisons. CompareMaskedEqual masks the argument with the first value
// and compares it with the second.
const (
	CompareInvalid ScmpCompareOp = iota
	CompareNotEqual
	CompareLess
	CompareLessOrEqual
	CompareEqual
	CompareGreaterEqual
	CompareGreater
	CompareMaskedEqual
)

var compares = [...]uint32{
	CompareNotEqual: C.SCMP_CMP_NE, CompareLess: C.SCMP_CMP_LT, CompareLessOrEqual: C.SCMP_CMP_LE,
	CompareEqual: C.SCMP_CMP_EQ, CompareGreaterEqual: C.SCMP_CMP_GE, CompareGreater: C.SCMP_CMP_GT,
	CompareMaskedEqual: C.SCMP_CMP_MASKED_EQ,
}

func (op ScmpCompareOp) native() (uint32, error) {
	if op == CompareInvalid || int(op) >= len(compares) {
		return 0, fmt.Errorf("seccomp: no such comparison: %#x", uint(op))
	}
	return compares[op], nil
}

// ScmpCondition is a test of one argument; the rule it belongs to counts when
// all its conditions hold.
type ScmpCondition struct {
	Argument uint // 0 to 5
	Op       ScmpCompareOp
	Operand1 uint64
	Operand2 uint64 // of CompareMaskedEqual only
}

// MakeCondition checks and makes a condition of one or two values.
func MakeCondition(arg uint, op ScmpCompareOp, values ...uint64) (ScmpCondition, error) {
	if _, err := op.native(); err != nil {
		return ScmpCondition{}, err
	}
	if arg > 5 {
		return ScmpCondition{}, fmt.Errorf("seccomp: a system call has the arguments 0 to 5, not %d", arg)
	}
	switch len(values) {
	case 1:
		return ScmpCondition{arg, op, values[0], 0}, nil
	case 2:
		return ScmpCondition{arg, op, values[0], values[1]}, nil
	}
	return ScmpCondition{}, errors.New("seccomp: a condition has one or two values")
}

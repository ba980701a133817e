// Package seccomp is Troupe's replacement for the module
// github.com/seccomp/libseccomp-golang in the monitor (go.mod: replace). It has
// the part of its interface that runc's libcontainer uses, and one purpose:
// libseccomp needs 14 to 30 ms to compile Kubernetes' RuntimeDefault, which
// libcontainer has it do in every container's init and in every exec.
//
// A filter here records the rules it is given. When its program is asked for,
// it is looked up among ready ones (Offer) by the SHA-256 of that record; only
// when it is not there do the rules go to libseccomp. A program can therefore
// not be found by a filter other than the one it was made from.
package seccomp

/*
#include <errno.h>
#include <stdlib.h>
#include <seccomp.h>

#if SCMP_VER_MAJOR > 2 || SCMP_VER_MINOR >= 6
#define ATTR_WAITKILL SCMP_FLTATR_CTL_WAITKILL
#else
#define ATTR_WAITKILL _SCMP_FLTATR_MIN // never asked for, see needAPI
#endif

static int rule_add(scmp_filter_ctx ctx, uint32_t action, int call, unsigned n, struct scmp_arg_cmp *conditions) {
	return seccomp_rule_add_array(ctx, action, call, n, conditions);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
)

// ScmpFilter is a filter that is being built. It is not for concurrent use.
type ScmpFilter struct {
	ctx     C.scmp_filter_ctx // has the architectures and attributes, and no pending rule
	pending []rule
	record  record
	broken  error
}

var errNoFilter = errors.New("seccomp: the filter was not made by NewFilter")

// NewFilter makes a filter that does defaultAction where no rule matches.
func NewFilter(defaultAction ScmpAction) (*ScmpFilter, error) {
	native, err := defaultAction.native()
	if err != nil {
		return nil, err
	}
	ctx := C.seccomp_init(C.uint32_t(native))
	if ctx == nil {
		return nil, fmt.Errorf("seccomp: libseccomp refuses the default action %#x", native)
	}
	f := &ScmpFilter{ctx: ctx, record: newRecord(native)}
	runtime.AddCleanup(f, func(ctx C.scmp_filter_ctx) { C.seccomp_release(ctx) }, ctx)
	// Whoever has libseccomp load the filter wants it in all threads.
	if err := f.set(C.SCMP_FLTATR_CTL_TSYNC, 1); err != nil && !errors.Is(err, syscall.EOPNOTSUPP) {
		return nil, err
	}
	return f, nil
}

// AddArch adds an architecture; one that is there already is no error.
func (f *ScmpFilter) AddArch(arch ScmpArch) error {
	token, err := arch.token()
	if err != nil {
		return err
	}
	if err := f.settle(); err != nil {
		return err
	}
	rc := C.seccomp_arch_add(f.ctx, C.uint32_t(token))
	runtime.KeepAlive(f)
	if rc != 0 && rc != -C.EEXIST {
		return fmt.Errorf("seccomp: add the architecture %v: %w", arch, syscall.Errno(-rc))
	}
	f.record = f.record.arch(token)
	return nil
}

// AddRule records what happens to a system call.
func (f *ScmpFilter) AddRule(call ScmpSyscall, action ScmpAction) error {
	return f.AddRuleConditional(call, action, nil)
}

// AddRuleConditional records what happens to a system call when all conditions
// hold. What libseccomp has against a rule, ExportBPF reports.
func (f *ScmpFilter) AddRuleConditional(call ScmpSyscall, action ScmpAction, conditions []ScmpCondition) error {
	if f.ctx == nil {
		return errNoFilter
	}
	u, err := newRule(call, action, conditions)
	if err != nil {
		return err
	}
	f.pending, f.record = append(f.pending, u), f.record.rule(u)
	return nil
}

// settle gives the pending rules to libseccomp. Until then nothing may change
// that an earlier rule does not see, as an architecture that comes after it.
func (f *ScmpFilter) settle() error {
	if f.ctx == nil {
		return errNoFilter
	}
	for _, u := range f.pending {
		if f.broken != nil {
			break
		}
		f.broken = f.add(u)
	}
	f.pending = nil
	return f.broken
}

func (f *ScmpFilter) add(u rule) error {
	var first *C.struct_scmp_arg_cmp
	list := make([]C.struct_scmp_arg_cmp, len(u.conditions))
	for i, c := range u.conditions {
		list[i] = C.struct_scmp_arg_cmp{
			arg: C.uint(c.argument), op: c.op,
			datum_a: C.scmp_datum_t(c.a), datum_b: C.scmp_datum_t(c.b),
		}
		first = &list[0]
	}
	rc := C.rule_add(f.ctx, C.uint32_t(u.action), C.int(u.call), C.uint(len(list)), first)
	runtime.KeepAlive(f)
	if rc != 0 {
		return fmt.Errorf("seccomp: libseccomp refuses the rule for system call %d (action %#x, %d conditions): %w",
			u.call, u.action, len(list), syscall.Errno(-rc))
	}
	return nil
}

// ExportBPF writes the program in the machine's byte order to file, in full.
func (f *ScmpFilter) ExportBPF(file *os.File) error {
	if f.ctx == nil {
		return errNoFilter
	}
	if f.broken != nil {
		return f.broken
	}
	key := f.record.key()
	if capturing != nil {
		return capturing.take(key, f)
	}
	if program, ok := ready[key]; ok {
		_, err := file.Write(program)
		return err
	}
	return f.compile(file)
}

// compile has libseccomp make the program.
func (f *ScmpFilter) compile(file *os.File) error {
	if err := f.settle(); err != nil {
		return err
	}
	rc := C.seccomp_export_bpf(f.ctx, C.int(file.Fd()))
	runtime.KeepAlive(f)
	if rc != 0 {
		return fmt.Errorf("seccomp: libseccomp does not make the program: %w", syscall.Errno(-rc))
	}
	return nil
}

func (f *ScmpFilter) set(name, value uint32) error {
	if err := f.settle(); err != nil {
		return err
	}
	rc := C.seccomp_attr_set(f.ctx, name, C.uint32_t(value))
	runtime.KeepAlive(f)
	if rc != 0 {
		return fmt.Errorf("seccomp: set attribute %d to %d: %w", name, value, syscall.Errno(-rc))
	}
	f.record = f.record.attribute(name, value)
	return nil
}

func (f *ScmpFilter) get(name uint32) (bool, error) {
	if f.ctx == nil {
		return false, errNoFilter
	}
	var value C.uint32_t
	rc := C.seccomp_attr_get(f.ctx, name, &value)
	runtime.KeepAlive(f)
	if rc != 0 {
		return false, fmt.Errorf("seccomp: get attribute %d: %w", name, syscall.Errno(-rc))
	}
	return value != 0, nil
}

func (f *ScmpFilter) setBit(name uint32, on bool, what string, level uint) error {
	if err := needAPI(what, level); err != nil {
		return err
	}
	var value uint32
	if on {
		value = 1
	}
	return f.set(name, value)
}

// SetNoNewPrivsBit says whether loading the filter sets no_new_privs.
func (f *ScmpFilter) SetNoNewPrivsBit(on bool) error {
	return f.setBit(C.SCMP_FLTATR_CTL_NNP, on, "no_new_privs", 0)
}

// SetLogBit has the kernel log what is not allowed (API level 3).
func (f *ScmpFilter) SetLogBit(on bool) error {
	return f.setBit(C.SCMP_FLTATR_CTL_LOG, on, "the log flag", 3)
}

// SetSSB turns the mitigation of speculative store bypass off (API level 4).
func (f *ScmpFilter) SetSSB(on bool) error {
	return f.setBit(C.SCMP_FLTATR_CTL_SSB, on, "the spec_allow flag", 4)
}

// SetWaitKill makes waiting for a notification's answer killable (API level 7).
func (f *ScmpFilter) SetWaitKill(on bool) error {
	return f.setBit(C.ATTR_WAITKILL, on, "the wait_killable_recv flag", 7)
}

// SetOptimize chooses 1, rules by priority, or 2, a binary tree (API level 4).
func (f *ScmpFilter) SetOptimize(level int) error {
	if err := needAPI("optimizing", 4); err != nil {
		return err
	}
	return f.set(C.SCMP_FLTATR_CTL_OPTIMIZE, uint32(level))
}

// GetNoNewPrivsBit is what SetNoNewPrivsBit set; the default is true.
func (f *ScmpFilter) GetNoNewPrivsBit() (bool, error) { return f.get(C.SCMP_FLTATR_CTL_NNP) }

// GetLogBit is what SetLogBit set; the default is false.
func (f *ScmpFilter) GetLogBit() (bool, error) { return f.get(C.SCMP_FLTATR_CTL_LOG) }

// GetSSB is what SetSSB set; the default is false.
func (f *ScmpFilter) GetSSB() (bool, error) { return f.get(C.SCMP_FLTATR_CTL_SSB) }

// GetWaitKill is what SetWaitKill set; the default is false.
func (f *ScmpFilter) GetWaitKill() (bool, error) {
	if err := needAPI("the wait_killable_recv flag", 7); err != nil {
		return false, err
	}
	return f.get(C.ATTR_WAITKILL)
}

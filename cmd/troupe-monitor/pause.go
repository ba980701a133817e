//go:build linux && cgo

package main

/*
// The pod's pause process: it holds the pod's PID namespace open, reaps what
// is orphaned in it, and ends on SIGTERM or SIGINT.
//
// It is compiled here but runs alone: writePause puts the machine code of this
// section behind an ELF header into a file of a few hundred bytes, which is
// the only file in the pause process's root. So the process costs a page or
// two of memory, and containers that share its PID namespace find nothing of
// the node behind /proc/1/root or /proc/1/exe. Hence: system calls only, no
// libc, no data outside the stack, no stack protector (which would want TLS).
#if defined(__x86_64__)
#define NR_exit 231
#define NR_wait4 61
#define NR_sigprocmask 14
#define NR_sigtimedwait 128
static inline __attribute__((always_inline)) long sys4(long n, long a, long b, long c, long d) {
	long r;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return r;
}
#elif defined(__aarch64__)
#define NR_exit 94
#define NR_wait4 260
#define NR_sigprocmask 135
#define NR_sigtimedwait 137
static inline __attribute__((always_inline)) long sys4(long n, long a, long b, long c, long d) {
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}
#else
#error "the pause process needs the system call numbers of this architecture"
#endif

// A blocked signal is queued even for the init of a PID namespace, where one
// with the default action would be dropped when it comes from inside.
__attribute__((section("troupe_pause"), used, noreturn, noinline, optimize("O2"), no_stack_protector))
static void pause_main(void) {
	unsigned long set = (1UL << (2 - 1)) | (1UL << (15 - 1)) | (1UL << (17 - 1)); // INT, TERM, CHLD
	sys4(NR_sigprocmask, 0, (long)&set, 0, sizeof(set));
	for (;;) {
		long sig = sys4(NR_sigtimedwait, (long)&set, 0, 0, sizeof(set));
		if (sig == 2 || sig == 15)
			sys4(NR_exit, 0, 0, 0, 0);
		while (sys4(NR_wait4, -1, 0, 1, 0) > 0) // WNOHANG
			;
	}
}

extern const unsigned char __start_troupe_pause[], __stop_troupe_pause[];
static const void *pause_code(void) { return __start_troupe_pause; }
static long pause_size(void) { return __stop_troupe_pause - __start_troupe_pause; }
static long pause_entry(void) { return (const unsigned char *)pause_main - __start_troupe_pause; }
*/
import "C"

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// writePause makes the root file system of all pause processes of this node:
// a directory with nothing but /pause in it and the mount points that a spec
// may ask for.
func writePause(root string) error {
	for _, d := range []string{"", "proc", "dev", "sys", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return fmt.Errorf("make the pause process's root: %w", err)
		}
	}
	program, err := pauseProgram()
	if err != nil {
		return err
	}
	name := filepath.Join(root, "pause")
	// A running pause process keeps the old file: it must not be written over.
	tmp := name + ".tmp"
	if err := os.WriteFile(tmp, program, 0o555); err != nil {
		return fmt.Errorf("write the pause program: %w", err)
	}
	if err := os.Rename(tmp, name); err != nil {
		return fmt.Errorf("write the pause program: %w", err)
	}
	return nil
}

// pauseProgram is a static ELF program of one segment: headers and code.
func pauseProgram() ([]byte, error) {
	machine, ok := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("no pause program for %s", runtime.GOARCH)
	}
	const base, headers = 0x400000, 64 + 56
	code := C.GoBytes(C.pause_code(), C.int(C.pause_size()))
	size := uint64(headers + len(code))
	head := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Entry: base + headers + uint64(C.pause_entry()), Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	segment := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X),
		Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 0x10000,
	}
	var out bytes.Buffer
	for _, part := range []any{head, segment, code} {
		if err := binary.Write(&out, binary.LittleEndian, part); err != nil {
			return nil, fmt.Errorf("build the pause program: %w", err)
		}
	}
	return out.Bytes(), nil
}

//go:build linux && cgo

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// confined says whether the processes in CRIU's images have no more rights than
// the container gives. CRIU gives them back what they had where they were
// captured: user, capabilities, seccomp programs. A checkpoint may come from
// another node, or from nobody knows whom; what the new container may do is
// decided here (CVE-2026-95837 was a runtime that believed the archive).
func (m *monitor) confined(images string, spec *specs.Spec) error {
	cores, err := filepath.Glob(filepath.Join(images, "core-*.img"))
	if err != nil || len(cores) == 0 {
		return errors.New("there is no process in it")
	}
	want := rights{spec: spec.Process}
	if profile := spec.Linux.Seccomp; profile != nil {
		config, err := specconv.SetupSeccomp(profile)
		if err != nil {
			return err
		}
		ready, err := m.readyProgram(config)
		if err != nil {
			return err
		}
		if want.program, err = libseccomp.Program(ready); err != nil {
			return err
		}
		if want.filters, err = readFilters(filepath.Join(images, "seccomp.img")); err != nil {
			return fmt.Errorf("the container has a seccomp profile: %w", err)
		}
	}
	for _, file := range cores {
		if err := want.check(file); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
	}
	return nil
}

// rights are what a process of the container may have.
type rights struct {
	spec    *specs.Process
	program []byte // of its seccomp profile
	filters []filter
}

// filter is an entry of seccomp.img (criu, images/seccomp.proto): a program, and
// the one that was loaded before it.
type filter struct {
	program []byte
	prev    uint64
	first   bool
}

// The numbers of fields in criu's images/{core,creds,seccomp}.proto.
const (
	coreThread      = 5
	threadCreds     = 10
	threadMode      = 11
	threadFilter    = 12
	credsUID        = 1 // to credsFSGID: uid, gid, euid, egid, suid, sgid, fsuid, fsgid
	credsFSGID      = 8
	credsCaps       = 9  // to credsCapBnd: inheritable, permitted, effective, bounding
	credsCapBnd     = 12 // words of 32 bits, the lowest first
	credsNoNewPrivs = 18
	seccompFilters  = 1
	modeFilter      = 2
)

func (r *rights) check(file string) error {
	core, err := readImage(file)
	if err != nil {
		return err
	}
	thread := core.message(coreThread)
	creds := thread.message(threadCreds)
	if creds == nil {
		return errors.New("it says nothing of the credentials of a process")
	}
	if r.spec.NoNewPrivileges && creds.number(credsNoNewPrivs) == 0 {
		return errors.New("a process may gain privileges (no_new_privs is not set) and the container forbids it")
	}
	allowed := capabilityBits(r.spec)
	for field := credsCaps; field <= credsCapBnd; field++ {
		for i, word := range creds.numbers(field) {
			if i > 1 && word != 0 || i < 2 && uint32(word)&^uint32(allowed>>(32*i)) != 0 {
				return errors.New("a process has capabilities that the container does not give")
			}
		}
	}
	for field := credsUID; field <= credsFSGID && r.spec.User.UID != 0; field++ {
		own := uint64(r.spec.User.UID)
		if field%2 == 0 {
			own = uint64(r.spec.User.GID)
		}
		if is := creds.number(field); is != own {
			return fmt.Errorf("a process is of user or group %d, the container's is %d:%d", is, r.spec.User.UID, r.spec.User.GID)
		}
	}
	return r.checkSeccomp(thread)
}

// checkSeccomp: the container's program is among those of the process.
func (r *rights) checkSeccomp(thread message) error {
	if r.program == nil {
		return nil
	}
	if thread.number(threadMode) != modeFilter {
		return errors.New("a process is under no seccomp filter, and the container has a profile")
	}
	i := thread.number(threadFilter)
	for range r.filters {
		if i >= uint64(len(r.filters)) {
			break
		}
		if guards(r.filters[i].program, r.program) {
			return nil
		}
		if r.filters[i].first {
			break
		}
		i = r.filters[i].prev
	}
	return errors.New("a process is not under the container's seccomp profile: it was captured under another one, or by another libseccomp")
}

// guards says whether a loaded program is the wanted one to the byte, perhaps
// after a prefix: libcontainer and crun begin with one that answers ENOSYS to
// system calls that the profile is too old to know. A prefix can do no harm when
// all that it returns is ENOSYS and all its ways on lead to the first
// instruction of the wanted program, which reads all it needs itself.
func guards(loaded, wanted []byte) bool {
	const (
		size      = 8 // code u16, jt u8, jf u8, k u32 (linux/filter.h)
		classJump = 5
		classRet  = 6
		enosys    = 0x00050000 | uint32(unix.ENOSYS) // SECCOMP_RET_ERRNO
	)
	if len(wanted) == 0 || len(loaded)%size != 0 || !bytes.HasSuffix(loaded, wanted) {
		return false
	}
	n := uint64(len(loaded)-len(wanted)) / size
	for i := range n {
		at := loaded[i*size:]
		code, jt, jf, k := binary.LittleEndian.Uint16(at), uint64(at[2]), uint64(at[3]), binary.LittleEndian.Uint32(at[4:])
		switch class := code & 7; {
		case class == classRet && (code != classRet || k != enosys):
			return false
		case class == classJump && code&0xf0 == 0: // always
			jt, jf = uint64(k), uint64(k)
			fallthrough
		case class == classJump:
			if i+1+jt > n || i+1+jf > n {
				return false
			}
		}
	}
	return true
}

func readFilters(file string) (filters []filter, err error) {
	image, err := readImage(file)
	if err != nil {
		return nil, err
	}
	all, err := image.messages(seccompFilters)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		f := filter{first: true}
		if len(m[1]) == 1 {
			f.program = m[1][0].bytes
		}
		if len(m[2]) == 1 {
			f.prev, f.first = m[2][0].number, false
		}
		filters = append(filters, f)
	}
	return filters, nil
}

// capabilityBits are all that any process of the container can come to have.
func capabilityBits(p *specs.Process) (bits uint64) {
	if p.Capabilities == nil {
		return 0
	}
	for _, name := range p.Capabilities.Bounding {
		if i, known := capabilityNumbers[strings.TrimPrefix(strings.ToUpper(name), "CAP_")]; known {
			bits |= 1 << i
		}
	}
	return bits
}

// capabilityNumbers are those of capabilities(7), in the order of the kernel.
var capabilityNumbers = func() map[string]int {
	numbers := map[string]int{}
	for i, name := range strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP
		LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
		SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE
		AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`) {
		numbers[name] = i
	}
	return numbers
}()

// message is a protobuf message without its types: fields by number. The few
// that are needed are not worth a library in every container's init.
type message map[uint64][]value

type value struct {
	number uint64
	bytes  []byte
}

func (m message) number(field int) uint64 {
	if n := len(m[uint64(field)]); n > 0 {
		return m[uint64(field)][n-1].number // the last one counts
	}
	return 0
}

// numbers are those of a repeated field, packed or not.
func (m message) numbers(field int) (all []uint64) {
	for _, v := range m[uint64(field)] {
		if v.bytes == nil {
			all = append(all, v.number)
		}
		for rest := v.bytes; len(rest) > 0; {
			n, size := binary.Uvarint(rest)
			if size <= 0 {
				return append(all, ^uint64(0)) // no such capability: refused
			}
			all, rest = append(all, n), rest[size:]
		}
	}
	return all
}

// messages are those of a field. One that cannot be read is not passed over:
// CRIU's reader takes what this one refuses (a number of more than 64 bits), and
// the checks would be of other messages than those that count.
func (m message) messages(field int) (all []message, err error) {
	for _, v := range m[uint64(field)] {
		inner, err := parse(v.bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, inner)
	}
	return all, nil
}

// message is the only one; of several a reader would have to merge them.
func (m message) message(field int) message {
	if all, err := m.messages(field); err == nil && len(all) == 1 {
		return all[0]
	}
	return nil
}

var errImage = errors.New("it cannot be read")

func parse(data []byte) (message, error) {
	m := message{}
	for len(data) > 0 {
		key, n := binary.Uvarint(data)
		if n <= 0 {
			return nil, errImage
		}
		data = data[n:]
		var v value
		size := 0
		switch key & 7 {
		case 0:
			v.number, size = binary.Uvarint(data)
		case 1:
			size = 8
		case 2:
			length, n := binary.Uvarint(data)
			if n <= 0 || length > uint64(len(data)-n) {
				return nil, errImage
			}
			size = n + int(length)
			v.bytes = data[n:size:size]
		case 5:
			size = 4
		}
		if size <= 0 || size > len(data) {
			return nil, errImage
		}
		m[key>>3], data = append(m[key>>3], v), data[size:]
	}
	return m, nil
}

// readImage reads an image with one entry: two magic numbers, a size, a message
// (criu, Images).
func readImage(file string) (message, error) {
	const most = 16 << 20
	info, err := os.Lstat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > most || info.Size() < 12 {
		return nil, errImage
	}
	data, err := os.ReadFile(file)
	if err != nil || len(data) < 12 {
		return nil, errImage
	}
	size := binary.LittleEndian.Uint32(data[8:])
	if data = data[12:]; uint64(size) != uint64(len(data)) {
		return nil, errImage
	}
	return parse(data)
}

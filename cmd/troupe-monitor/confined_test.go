//go:build linux && cgo

package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// number and inner are fields of a protobuf message.
func number(field, n uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, field<<3), n)
}

func inner(field uint64, parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return append(binary.AppendUvarint(binary.AppendUvarint(nil, field<<3|2), uint64(len(all))), all...)
}

// image is a CRIU image with one entry.
func image(t *testing.T, dir, name string, entry []byte) string {
	t.Helper()
	data := binary.LittleEndian.AppendUint32(make([]byte, 8), uint32(len(entry)))
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, append(data, entry...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// insn is one of a BPF program.
func insn(code uint16, jt, jf byte, k uint32) []byte {
	return binary.LittleEndian.AppendUint32(append(binary.LittleEndian.AppendUint16(nil, code), jt, jf), k)
}

func TestAPrefixOfASeccompProgramMayOnlyDeny(t *testing.T) {
	program := slices.Concat(insn(0x20, 0, 0, 4), insn(0x06, 0, 0, 0x7fff0000))
	load, deny, allow := insn(0x20, 0, 0, 0), insn(0x06, 0, 0, 0x00050026), insn(0x06, 0, 0, 0x7fff0000)
	for what, c := range map[string]struct {
		loaded []byte
		ok     bool
	}{
		"the program itself":         {program, true},
		"ENOSYS for what is unknown": {slices.Concat(load, insn(0x35, 0, 1, 400), deny, program), true},
		"a jump to its beginning":    {slices.Concat(load, insn(0x05, 0, 0, 1), deny, program), true},
		"it allows":                  {slices.Concat(load, insn(0x35, 0, 1, 400), allow, program), false},
		"it returns what it has":     {slices.Concat(load, insn(0x16, 0, 0, 0), program), false},
		"it jumps into the program":  {slices.Concat(load, insn(0x35, 1, 0, 400), program), false},
		"it jumps over":              {slices.Concat(load, insn(0x05, 0, 0, 1), program), false},
		"a jump without end":         {slices.Concat(load, insn(0x05, 0, 0, ^uint32(0)), program), false},
		"another program":            {slices.Concat(load, allow), false},
		"nothing":                    {nil, false},
	} {
		if got := guards(c.loaded, program); got != c.ok {
			t.Errorf("%s: %v", what, got)
		}
	}
}

func TestCapturedProcessesWithMoreRightsThanTheContainerAreRefused(t *testing.T) {
	program := []byte("8 bytes.")
	dir := t.TempDir()
	filters, err := readFilters(image(t, dir, "seccomp.img", append(append(
		inner(1, inner(1, program), number(3, 0)),
		inner(1, inner(1, []byte("its own")), number(2, 0))...), // loaded after the first
		inner(1, inner(1, []byte("allow all")))...)))
	if err != nil || len(filters) != 3 {
		t.Fatalf("filters: %v, %v", filters, err)
	}
	own := func(uid uint64) (all []byte) {
		for f := uint64(1); f <= 8; f++ {
			all = append(all, number(f, uid)...)
		}
		return all
	}
	const chown, sysAdmin = 1 << 0, 1 << 21
	core := func(creds []byte, mode, filter uint64) []byte {
		return inner(5, inner(10, creds), number(11, mode), number(12, filter))
	}
	spec := func(uid uint32, noNewPrivs bool) *specs.Process {
		return &specs.Process{User: specs.User{UID: uid, GID: uid}, NoNewPrivileges: noNewPrivs, Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}}}
	}
	for what, c := range map[string]struct {
		spec  *specs.Process
		core  []byte
		fits  bool
		plain bool // the container has no profile
	}{
		"as it should be":            {spec: spec(5, true), core: core(append(own(5), number(18, 1)...), 2, 0), fits: true},
		"with a filter of its own":   {spec: spec(0, false), core: core(own(0), 2, 1), fits: true},
		"root that became a user":    {spec: spec(0, false), core: core(own(7), 2, 0), fits: true},
		"a capability that is given": {spec: spec(0, false), core: core(append(own(0), number(11, chown)...), 2, 0), fits: true},
		"packed capabilities":        {spec: spec(0, false), core: core(append(own(0), inner(11, []byte{0x80, 0x80, 0x80, 0x01})...), 2, 0)},
		"CAP_SYS_ADMIN":              {spec: spec(0, false), core: core(append(own(0), number(10, sysAdmin)...), 2, 0)},
		"in the bounding set":        {spec: spec(0, false), core: core(append(own(0), number(12, sysAdmin)...), 2, 0)},
		"a high capability":          {spec: spec(0, false), core: core(append(own(0), append(number(11, 0), number(11, 1<<7)...)...), 2, 0)},
		"another user":               {spec: spec(5, false), core: core(own(6), 2, 0)},
		"root":                       {spec: spec(5, false), core: core(own(0), 2, 0)},
		"new privileges":             {spec: spec(0, true), core: core(own(0), 2, 0)},
		"no filter":                  {spec: spec(0, false), core: core(own(0), 0, 0)},
		"another filter":             {spec: spec(0, false), core: core(own(0), 2, 2)},
		"a filter that is not there": {spec: spec(0, false), core: core(own(0), 2, 9)},
		"no filter and no profile":   {spec: spec(0, false), core: core(own(0), 0, 0), fits: true, plain: true},
		"no credentials":             {spec: spec(0, false), core: inner(5, number(11, 2))},
		"credentials twice":          {spec: spec(0, false), core: append(core(own(0), 2, 0), core(own(0), 2, 0)...)},
		"a message that is cut off":  {spec: spec(0, false), core: core(own(0), 2, 0)[:20]},
	} {
		want := rights{spec: c.spec, program: program, filters: filters}
		if c.plain {
			want.program = nil
		}
		err := want.check(image(t, dir, "core-1.img", c.core))
		if c.fits != (err == nil) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

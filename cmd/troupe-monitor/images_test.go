//go:build linux && cgo

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// tooMany is a number of 70 bits in an unknown field: protobuf-c, and so CRIU,
// reads it.
var tooMany = append(append([]byte{30<<3&0x7f | 0x80, 1}, bytes.Repeat([]byte{0xff}, 9)...), 0x7f)

// What CRIU reads and we do not must not be passed over: the rights of the
// process would be those in it.
func TestAProcessInAMessageThatOnlyCRIUCanReadIsRefused(t *testing.T) {
	dir := t.TempDir()
	good := inner(5, inner(10, number(1, 5), number(3, 5), number(5, 5), number(7, 5)), number(11, 2), number(12, 0))
	root := inner(5, inner(10, number(1, 0), number(10, 1<<21)), tooMany)
	want := rights{spec: &specs.Process{User: specs.User{UID: 5}}}
	if err := want.check(image(t, dir, "core-1.img", good)); err != nil {
		t.Fatal(err)
	}
	for what, core := range map[string][]byte{"after it": append(append([]byte{}, good...), root...), "before it": append(append([]byte{}, root...), good...)} {
		if err := want.check(image(t, dir, "core-1.img", core)); err == nil {
			t.Errorf("%s: a process of root passes", what)
		}
	}
	filters := append(inner(1, inner(1, []byte("allow all")), tooMany), inner(1, inner(1, []byte("8 bytes.")))...)
	if all, err := readFilters(image(t, dir, "seccomp.img", filters)); err == nil {
		t.Errorf("of two filters %d are seen", len(all))
	}
}

// FuzzImage reads strangers' bytes as CRIU's images. Nothing but what gives no
// rights is accepted for a container that gives none: whatever else is in the
// image, there is no capability in it.
func FuzzImage(f *testing.F) {
	f.Add(append(make([]byte, 8), 0, 0, 0, 0), []byte{})
	for _, entry := range [][]byte{
		inner(5, inner(10, number(1, 5), number(10, 0), number(18, 1)), number(11, 2), number(12, 0)),
		inner(5, inner(10, inner(11, []byte{0x80, 0x80, 0x80, 0x01})), tooMany),
		inner(1, inner(1, []byte("8 bytes.")), number(2, 0)),
	} {
		dir := f.TempDir()
		path := filepath.Join(dir, "x")
		if err := os.WriteFile(path, entry, 0o600); err != nil {
			f.Fatal(err)
		}
		f.Add(append([]byte{0, 0, 0, 0, 0, 0, 0, 0, byte(len(entry)), 0, 0, 0}, entry...), entry)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, core, filters []byte) {
		for name, data := range map[string][]byte{"core-1.img": core, "seccomp.img": filters} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want := rights{spec: &specs.Process{User: specs.User{UID: 5, GID: 5}, NoNewPrivileges: true}, program: []byte("8 bytes.")}
		want.filters, _ = readFilters(filepath.Join(dir, "seccomp.img"))
		if want.check(filepath.Join(dir, "core-1.img")) != nil {
			return
		}
		read, err := readImage(filepath.Join(dir, "core-1.img"))
		if err != nil {
			t.Fatalf("accepted, and cannot be read: %v", err)
		}
		creds := read.message(coreThread).message(threadCreds)
		for field := credsCaps; field <= credsCapBnd; field++ {
			for _, word := range creds.numbers(field) {
				if uint32(word) != 0 {
					t.Errorf("accepted with capabilities %x", word)
				}
			}
		}
	})
}

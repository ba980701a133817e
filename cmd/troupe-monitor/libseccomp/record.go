package seccomp

import (
	"crypto/sha256"
	"encoding/binary"
)

// record is what was asked of a filter, in order, as bytes: each entry is a
// letter and numbers of fixed width, behind everything else that libseccomp's
// output depends on. So two filters with the same record have the same program.
type record []byte

// Key is the SHA-256 of a record.
type Key [sha256.Size]byte

func (r record) key() Key { return sha256.Sum256(r) }

// newRecord begins with the library and what it found the kernel to have: it
// makes other code where an action is not supported.
func newRecord(defaultAction uint32) record {
	major, minor, micro := GetLibraryVersion()
	api, _ := GetAPI()
	r := record("troupe seccomp record 1\n")
	for _, n := range []uint{major, minor, micro, api} {
		r = r.number(uint32(n))
	}
	return append(r.number(archs[nativeArch()].token), 'D').number(defaultAction)
}

func nativeArch() ScmpArch {
	a, _ := GetNativeArch() // ArchInvalid has a token of its own
	return a
}

func (r record) number(n uint32) record { return binary.BigEndian.AppendUint32(r, n) }

func (r record) arch(token uint32) record { return append(r, 'A').number(token) }

func (r record) attribute(name, value uint32) record {
	return append(r, 'T').number(name).number(value)
}

func (r record) rule(u rule) record {
	r = append(r, 'R').number(u.action).number(uint32(u.call)).number(uint32(len(u.conditions)))
	for _, c := range u.conditions {
		r = r.number(c.argument).number(c.op)
		r = binary.BigEndian.AppendUint64(r, c.a)
		r = binary.BigEndian.AppendUint64(r, c.b)
	}
	return r
}

// rule is a rule in libseccomp's numbers.
type rule struct {
	action     uint32
	call       int32
	conditions []condition
}

type condition struct {
	argument, op uint32
	a, b         uint64
}

func newRule(call ScmpSyscall, action ScmpAction, conditions []ScmpCondition) (rule, error) {
	native, err := action.native()
	if err != nil {
		return rule{}, err
	}
	u := rule{action: native, call: int32(call)}
	for _, c := range conditions {
		op, err := c.Op.native()
		if err != nil {
			return rule{}, err
		}
		u.conditions = append(u.conditions, condition{uint32(c.Argument), op, c.Operand1, c.Operand2})
	}
	return u, nil
}

package messages

import runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

// UserNamespace says how the users of a pod's own user namespace are mapped
// to the node's. A nil one is the node's own namespace.
type UserNamespace struct {
	Path string // where it is pinned; empty before it is
	UIDs IDRange
	GIDs IDRange
}

// IDRange maps the ids 0 to Length-1 in the namespace to those from Host on.
// One range that begins at 0 is all that the CRI has of a pod's mapping: the
// gateway refuses others (critest, UserNamespaces).
type IDRange struct{ Host, Length uint32 }

// ToHost is the node's number of an id; false: it is not mapped, and a process
// or file of it cannot be.
func (r IDRange) ToHost(id uint32) (uint32, bool) {
	if id >= r.Length {
		return 0, false
	}
	return r.Host + id, true
}

// UserNamespaceOf is what namespace options ask for, pinned at path.
func UserNamespaceOf(options *runtime.NamespaceOption, path string) *UserNamespace {
	asked := options.GetUsernsOptions()
	if asked == nil || asked.GetMode() != runtime.NamespaceMode_POD {
		return nil
	}
	u := &UserNamespace{Path: path}
	for _, m := range asked.GetUids() {
		u.UIDs = IDRange{m.GetHostId(), m.GetLength()}
	}
	for _, m := range asked.GetGids() {
		u.GIDs = IDRange{m.GetHostId(), m.GetLength()}
	}
	return u
}

// Same says whether two ask for the same mapping.
func (u *UserNamespace) Same(other *UserNamespace) bool {
	if u == nil || other == nil {
		return u == other
	}
	return u.UIDs == other.UIDs && u.GIDs == other.GIDs
}

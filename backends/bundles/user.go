package bundles

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// user says who the process is: what the container asks for, else the image's
// USER, else root.
func (b *bundle) user() error {
	want, err := b.wantedUser()
	if err != nil {
		return err
	}
	who, err := lookUp(b.r.Rootfs, want)
	if err != nil {
		return err
	}
	if b.sc.GetSupplementalGroupsPolicy() == runtime.SupplementalGroupsPolicy_Strict {
		who.groups = nil
	}
	// The primary group is among them too, as initgroups(3) has it; the
	// kubelet has put fsGroup into supplemental_groups already.
	groups := append([]uint32{who.gid}, who.groups...)
	for i, gid := range b.sc.GetSupplementalGroups() {
		if !validID(gid) {
			return idError(fmt.Sprintf("supplemental_groups[%d]", i), gid)
		}
		groups = append(groups, uint32(gid))
	}
	groups = unique(groups)
	if len(groups) > maxGroups {
		return messages.Errorf(messages.Invalid, "the user would have %d groups (the image's /etc/group and supplemental_groups), Linux allows %d", len(groups), maxGroups)
	}
	if err := b.checkMapped(who.uid, groups); err != nil {
		return err
	}
	b.spec.Process.User = specs.User{UID: who.uid, GID: who.gid, AdditionalGids: groups}
	b.User = criUser(b.spec.Process.User)
	return nil
}

// wanted is a user as asked for: numbers or names.
type wanted struct {
	user      string
	nameOnly  bool // user is a name even if it looks like a number
	group     string
	fromImage bool
}

func (b *bundle) wantedUser() (wanted, error) {
	uid, gid, name := b.sc.GetRunAsUser(), b.sc.GetRunAsGroup(), b.sc.GetRunAsUsername()
	switch {
	case uid != nil && name != "":
		return wanted{}, messages.Errorf(messages.Invalid, "run_as_user and run_as_username are both set: set one of them")
	case gid != nil && uid == nil && name == "":
		return wanted{}, messages.Errorf(messages.Invalid, "run_as_group is set without run_as_user or run_as_username: set one of them")
	case uid != nil && !validID(uid.GetValue()):
		return wanted{}, idError("run_as_user", uid.GetValue())
	case gid != nil && !validID(gid.GetValue()):
		return wanted{}, idError("run_as_group", gid.GetValue())
	}
	var w wanted
	switch {
	case uid != nil:
		w.user = strconv.FormatInt(uid.GetValue(), 10)
	case name != "":
		w.user, w.nameOnly = name, true
	default:
		w.user, w.group, _ = strings.Cut(b.r.Image.User, ":")
		w.fromImage = true
		if n := cmp.Or(tooLarge(w.user), tooLarge(w.group)); n != "" {
			return wanted{}, messages.Errorf(messages.Invalid, "%s in the image's USER: a number must be between 0 and %d", n, math.MaxInt32)
		}
	}
	if gid != nil {
		w.group = strconv.FormatInt(gid.GetValue(), 10)
	}
	return w, nil
}

// maxGroups is NGROUPS_MAX of the kernel.
const maxGroups = 65536

type identity struct {
	uid, gid uint32
	groups   []uint32 // of the user in /etc/group
}

// lookUp finds who is meant in /etc/passwd and /etc/group of a root file
// system. They are read line by line and only what is asked for is kept: both
// are a stranger's.
func lookUp(rootfs string, w wanted) (identity, error) {
	who, name, err := lookUpUser(rootfs, w)
	if err != nil {
		return identity{}, err
	}
	gid, numeric := parseID(w.group)
	found := w.group == "" || numeric
	if numeric {
		who.gid = gid
	}
	err = scanInRoot(rootfs, "/etc/group", func(r io.Reader) error {
		_, err := user.ParseGroupFilter(r, func(g user.Group) bool {
			if !validID(int64(g.Gid)) {
				return false
			}
			if !found && g.Name == w.group {
				who.gid, found = uint32(g.Gid), true
			}
			if name != "" && len(who.groups) <= maxGroups && slices.Contains(g.List, name) {
				who.groups = append(who.groups, uint32(g.Gid))
			}
			return false
		})
		return err
	})
	if err == nil && !found {
		err = messages.Errorf(messages.Invalid, "group %q (from the image's USER) is not in the image's /etc/group", w.group)
	}
	return who, err
}

// lookUpUser also gives the user's name, empty for a number that has none.
func lookUpUser(rootfs string, w wanted) (identity, string, error) {
	if w.user == "" {
		w.user = "0"
	}
	uid, numeric := parseID(w.user)
	numeric = numeric && !w.nameOnly
	var found *user.User
	err := scanInRoot(rootfs, "/etc/passwd", func(r io.Reader) error {
		_, err := user.ParsePasswdFilter(r, func(u user.User) bool {
			if found == nil && (numeric && u.Uid == int(uid) || !numeric && u.Name == w.user) {
				found = &u
			}
			return false
		})
		return err
	})
	switch {
	case err != nil:
		return identity{}, "", err
	case found != nil && (!validID(int64(found.Uid)) || !validID(int64(found.Gid))):
		return identity{}, "", messages.Errorf(messages.Invalid, "user %q in the image's /etc/passwd has ids outside 0 to %d", w.user, math.MaxInt32)
	case found != nil:
		return identity{uid: uint32(found.Uid), gid: uint32(found.Gid)}, found.Name, nil
	case numeric:
		return identity{uid: uid}, "", nil
	}
	return identity{}, "", messages.Errorf(messages.Invalid, "user %q (%s) is not in the image's /etc/passwd", w.user, w.origin())
}

func (w wanted) origin() string {
	if w.fromImage {
		return "from the image's USER"
	}
	return "run_as_username"
}

// validID: Kubernetes allows ids up to 2^31-1, and so do we, though the kernel
// could take more.
func validID(id int64) bool { return id >= 0 && id <= math.MaxInt32 }

func idError(field string, id int64) error {
	return messages.Errorf(messages.Invalid, "%s %d: must be between 0 and %d", field, id, math.MaxInt32)
}

func parseID(s string) (uint32, bool) {
	id, err := strconv.ParseInt(s, 10, 64)
	if err != nil || !validID(id) {
		return 0, false
	}
	return uint32(id), true
}

// tooLarge is a number that is no id, else empty. It must not be looked up as a
// name: a client is told by ImageStatus that the user has this number, takes it
// for another than root, and the image's /etc/passwd could call root so
// (CVE-2026-46680).
func tooLarge(s string) string {
	id, err := strconv.ParseInt(s, 10, 64)
	if errors.Is(err, strconv.ErrRange) || err == nil && !validID(id) {
		return s
	}
	return ""
}

// unique drops repeated values and keeps the order.
func unique[T comparable](in []T) []T {
	var out []T
	seen := make(map[T]bool, len(in))
	for _, v := range in {
		if !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	return out
}

func criUser(u specs.User) *runtime.ContainerUser {
	groups := make([]int64, len(u.AdditionalGids))
	for i, gid := range u.AdditionalGids {
		groups[i] = int64(gid)
	}
	return &runtime.ContainerUser{Linux: &runtime.LinuxContainerUser{
		Uid: int64(u.UID), Gid: int64(u.GID), SupplementalGroups: groups,
	}}
}

package bundles

import (
	"bytes"
	"fmt"
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
	accounts, err := readAccounts(b.r.Rootfs)
	if err != nil {
		return err
	}
	who, err := accounts.resolve(want)
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
	}
	if gid != nil {
		w.group = strconv.FormatInt(gid.GetValue(), 10)
	}
	return w, nil
}

// accounts are /etc/passwd and /etc/group of a root file system.
type accounts struct {
	users  []user.User
	groups []user.Group
}

// readAccounts reads them without being led out of the root file system or
// being kept waiting by what is there in place of a file (see readInRoot).
func readAccounts(rootfs string) (accounts, error) {
	passwd, err := readInRoot(rootfs, "/etc/passwd")
	if err != nil {
		return accounts{}, err
	}
	group, err := readInRoot(rootfs, "/etc/group")
	if err != nil {
		return accounts{}, err
	}
	var a accounts
	if a.users, err = user.ParsePasswd(bytes.NewReader(passwd)); err != nil {
		return accounts{}, messages.Errorf(messages.Invalid, "/etc/passwd of the image: %w", err)
	}
	if a.groups, err = user.ParseGroup(bytes.NewReader(group)); err != nil {
		return accounts{}, messages.Errorf(messages.Invalid, "/etc/group of the image: %w", err)
	}
	return a, nil
}

type identity struct {
	uid, gid uint32
	groups   []uint32 // of the user in /etc/group
}

func (a accounts) resolve(w wanted) (identity, error) {
	if w.user == "" {
		w.user = "0"
	}
	uid, numeric := parseID(w.user)
	numeric = numeric && !w.nameOnly
	at := slices.IndexFunc(a.users, func(u user.User) bool {
		return numeric && u.Uid == int(uid) || !numeric && u.Name == w.user
	})
	var who identity
	switch {
	case at >= 0:
		u := a.users[at]
		if !validID(int64(u.Uid)) || !validID(int64(u.Gid)) {
			return identity{}, messages.Errorf(messages.Invalid, "user %q in the image's /etc/passwd has ids outside 0 to %d", w.user, math.MaxInt32)
		}
		who = identity{uid: uint32(u.Uid), gid: uint32(u.Gid)}
		who.groups = a.groupsOf(u.Name)
	case numeric:
		who.uid = uid
	default:
		return identity{}, messages.Errorf(messages.Invalid, "user %q (%s) is not in the image's /etc/passwd", w.user, w.origin())
	}
	if w.group == "" {
		return who, nil
	}
	gid, err := a.group(w.group)
	who.gid = gid
	return who, err
}

func (w wanted) origin() string {
	if w.fromImage {
		return "from the image's USER"
	}
	return "run_as_username"
}

func (a accounts) group(name string) (uint32, error) {
	if gid, ok := parseID(name); ok {
		return gid, nil
	}
	for _, g := range a.groups {
		if g.Name == name && validID(int64(g.Gid)) {
			return uint32(g.Gid), nil
		}
	}
	return 0, messages.Errorf(messages.Invalid, "group %q (from the image's USER) is not in the image's /etc/group", name)
}

func (a accounts) groupsOf(name string) []uint32 {
	var gids []uint32
	for _, g := range a.groups {
		if slices.Contains(g.List, name) && validID(int64(g.Gid)) {
			gids = append(gids, uint32(g.Gid))
		}
	}
	return gids
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

// unique drops repeated values and keeps the order.
func unique[T comparable](in []T) []T {
	var out []T
	for _, v := range in {
		if !slices.Contains(out, v) {
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

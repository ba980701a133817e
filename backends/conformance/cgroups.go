package conformance

import (
	"strings"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// Cgroups checks the promises of backends.Cgroups with the cgroupfs manager.
func Cgroups(t *testing.T, new func(t *testing.T) backends.Cgroups) {
	t.Run("TheKubeletsCgroupIsUsedAndNotHeld", func(t *testing.T) {
		c, pod := new(t), ID(t)
		parent, err := c.Make(context30s(t), pod, "/kubepods/burstable/pod1234")
		must(t, err)
		if parent != "/kubepods/burstable/pod1234" {
			t.Errorf("parent %q", parent)
		}
		wantNothingHeld(t, c, pod)
		must(t, c.Remove(context30s(t), pod))
	})
	t.Run("APodWithoutOneGetsOneOfOursWithItsName", func(t *testing.T) {
		c, pod := new(t), ID(t)
		parent, err := c.Make(context30s(t), pod, "")
		must(t, err)
		if !strings.HasPrefix(parent, "/") || !strings.Contains(parent, pod) {
			t.Errorf("parent %q", parent)
		}
		must(t, c.Remove(context30s(t), pod))
		wantNothingHeld(t, c, pod)
	})
	t.Run("MakingAgainGivesTheSame", func(t *testing.T) {
		c, pod := new(t), ID(t)
		first, err := c.Make(context30s(t), pod, "")
		must(t, err)
		second, err := c.Make(context30s(t), pod, "")
		must(t, err)
		if first != second {
			t.Errorf("first %q, then %q", first, second)
		}
		must(t, c.Remove(context30s(t), pod))
	})
	t.Run("RemoveWithoutMakeAndTwiceIsASuccess", func(t *testing.T) {
		c, pod := new(t), ID(t)
		must(t, c.Remove(context30s(t), pod))
		_, err := c.Make(context30s(t), pod, "")
		must(t, err)
		must(t, c.Remove(context30s(t), pod))
		must(t, c.Remove(context30s(t), pod))
	})
	t.Run("LeftoversAreHeldAndCanBeDropped", func(t *testing.T) {
		c, pod, other := new(t), ID(t), ID(t)
		for _, p := range []string{pod, other} {
			_, err := c.Make(context30s(t), p, "")
			must(t, err)
			wantHeld(t, c, p)
		}
		dropAll(t, c, pod)
		wantHeld(t, c, other)
		dropAll(t, c, other)
	})
	t.Run("APathThatLeavesTheTreeIsRefused", func(t *testing.T) {
		c := new(t)
		for _, bad := range []string{"/kubepods/../../etc", "..", "/a/./b", "/a\n/b", "/kubepods.slice"} {
			pod := ID(t)
			if _, err := c.Make(context30s(t), pod, bad); err == nil || messages.KindOf(err) != messages.Invalid {
				t.Errorf("%q: got %v, want an error of kind Invalid", bad, err)
			}
			wantNothingHeld(t, c, pod)
		}
	})
}

package backends

import (
	"strings"
	"testing"
)

func TestAnIDThatCouldLeaveItsDirectoryIsRefused(t *testing.T) {
	for id, fine := range map[string]bool{
		"a": true, "0": true, "Z9_.-": true, strings.Repeat("f", 128): true,
		"": false, strings.Repeat("f", 129): false, ".": false, "..": false, "_a": false, "-a": false,
		"a/b": false, "a\n": false, "a b": false, "a\x00": false, "ä": false, "a/../b": false,
	} {
		if err := CheckID("pod", id); (err == nil) != fine {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

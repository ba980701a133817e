package messages

import "testing"

func TestTheSizeOfShmIsReadAsPeopleWriteIt(t *testing.T) {
	for text, want := range map[string]int64{"64Mi": 64 << 20, "64m": 64 << 20, "1Gi": 1 << 30, "1048576": 1 << 20, "1MiB": 1 << 20} {
		if got, err := ParseShmSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "0", "-1", "big", "1Xi"} {
		if got, err := ParseShmSize(bad); KindOf(err) != Invalid {
			t.Errorf("%q: %d, %v", bad, got, err)
		}
	}
}

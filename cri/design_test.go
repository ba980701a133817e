package cri

import (
	"os"
	"strings"
	"testing"
)

func TestTheDesignListsWhatIsNotImplemented(t *testing.T) {
	text, err := os.ReadFile("../DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "<!-- unimplemented -->")
	written, _, found := strings.Cut(rest, "<!-- /unimplemented -->")
	if want := strings.Join(Unimplemented(), ", "); !found || strings.TrimSpace(written) != want {
		t.Errorf("DESIGN.md lists\n%s\nand the gateway answers Unimplemented to\n%s", strings.TrimSpace(written), want)
	}
}

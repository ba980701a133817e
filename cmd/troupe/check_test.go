package main

import (
	"strings"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/backends/fake"
)

func TestCheckNamesWhatIsDamagedAndItsExitCodeSaysSo(t *testing.T) {
	r := startDaemon(t, shortDir(t), "")
	if code, out, errs := r.cli("check"); code != 0 || !strings.Contains(out, "0 layers read, none is damaged") {
		t.Errorf("an empty store: %d %s%s", code, out, errs)
	}
	r.node.AddImage("registry.local/app:1", fake.Layer{Name: "base", Size: 100})
	if _, err := conformance.Pull(t.Context(), r.node.Backends().Images, backends.PullRequest{Ref: "registry.local/app:1"}); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := r.cli("check"); code != 0 || !strings.Contains(out, "1 layers read, none is damaged") {
		t.Errorf("a sound store: %d %s%s", code, out, errs)
	}
	r.node.SpoilLayer("base")
	code, out, errs := r.cli("check")
	if code != 1 || !strings.Contains(errs, "1 of 1 layers are damaged") || strings.Count(errs, "\n") != 1 {
		t.Errorf("a damaged layer: %d %q", code, errs)
	}
	if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) != 3 || lines[0] != "everything on the node has an owner" || !strings.Contains(lines[2], "registry.local/app:1") || !strings.Contains(lines[2], "another digest") {
		t.Errorf("one line per layer is expected:\n%s", out)
	}
	if code, out, errs := r.cli("check", "-o", "json"); code != 1 || !strings.Contains(strings.ReplaceAll(out, " ", ""), `"quarantined":true`) {
		t.Errorf("as JSON: %d %s%s", code, out, errs)
	}
	r.node.SetRegistry("registry.local", true)
	if code, out, errs := r.cli("check", "--repair"); code != 1 || !strings.Contains(out, "could not be pulled again") || !strings.Contains(errs, "1 of 1 damaged images") {
		t.Errorf("a repair without a registry: %d %s%s", code, out, errs)
	}
	r.node.SetRegistry("registry.local", false)
	if code, out, errs := r.cli("check", "--repair"); code != 0 || !strings.Contains(out, "registry.local/app:1 pulled again") {
		t.Errorf("a repair: %d %s%s", code, out, errs)
	}
	if code, out, errs := r.cli("check"); code != 0 {
		t.Errorf("after the repair: %d %s%s", code, out, errs)
	}
}

func TestCheckShowsWhatHasNoOwner(t *testing.T) {
	r := startDaemon(t, shortDir(t), "")
	pod := conformance.ID(t)
	if _, err := r.node.Backends().Namespaces.Pin(t.Context(), backends.NamespaceRequest{Pod: pod, UTS: true}); err != nil {
		t.Fatal(err)
	}
	code, out, errs := r.cli("check", "--only", "leftovers")
	if code != 1 || !strings.Contains(errs, "1 things on the node have no owner") {
		t.Errorf("a leftover: %d %q", code, errs)
	}
	if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) != 2 || !strings.HasPrefix(lines[1], "utsns") || !strings.Contains(lines[1], pod[:13]) || !strings.Contains(lines[1], "unpin it") {
		t.Errorf("one line per leftover is expected:\n%s", out)
	}
	if code, out, errs := r.cli("check", "--only", "images"); code != 0 || strings.Contains(out, "owner") {
		t.Errorf("images alone: %d %s%s", code, out, errs)
	}
	if code, out, _ := r.cli("check", "--only", "leftovers", "-o", "json"); code != 1 || !strings.Contains(out, pod) {
		t.Errorf("as JSON: %d %s", code, out)
	}
	if code, _, errs := r.cli("check", "--only", "everything"); code != exitUsage || !strings.Contains(errs, "leftovers") {
		t.Errorf("a word that is none: %d %s", code, errs)
	}
}

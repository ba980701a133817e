package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	"github.com/troupe-run/troupe/e2e/verdict"
)

// page is what a benchmark leaves in bench/: NAME.md, its figures as JSON, and
// pictures.
type page struct {
	options
	name, kind, title, about string
	raw                      any
	busy                     float64 // cores that had something else to do
	pictures                 map[string]string
}

// publish prints the figures and writes the page. A target that is missed is
// no error: the last line says so.
func (p *page) publish(figures string) error {
	fmt.Println(verdict.Disturbed(p.busy) + figures)
	root, err := harness.ProjectRoot()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, p.out)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(p.raw, "", "  ")
	if err != nil {
		return err
	}
	var embedded strings.Builder
	files := map[string]string{strings.ToLower(p.name) + ".json": string(raw) + "\n"}
	for _, name := range slices.Sorted(maps.Keys(p.pictures)) {
		files[name] = p.pictures[name]
		fmt.Fprintf(&embedded, "![%s](%s)\n\n", strings.TrimSuffix(name, ".svg"), name)
	}
	files[p.name+".md"] = fmt.Sprintf("# %s\n\nMade by `make %s` on %s: %s. Read the figures as ratios: the machine is small.\n%s\n%s\n%s%s",
		p.title, p.kind, time.Now().UTC().Format("2006-01-02"), verdict.Machine(), verdict.Disturbed(p.busy), p.about, embedded.String(), figures)
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func splitList(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}

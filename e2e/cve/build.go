package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	pureTags    = "containers_image_openpgp,exclude_graphdriver_btrfs,grpcnotrace"
	monitorTags = "seccomp,netgo,osusergo"
)

// workshop makes builds and keeps those that are needed again.
type workshop struct {
	ctx     context.Context
	root    string // the project's
	dir     string // ours, with everything that is made
	number  int
	e2e     string // the compiled end-to-end tests
	modules map[string]string
}

func newWorkshop(ctx context.Context) (*workshop, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		return nil, fmt.Errorf("run it in the project's directory: %w", err)
	}
	dir, err := os.MkdirTemp("", "troupe-cve")
	return &workshop{ctx: ctx, root: root, dir: dir, modules: map[string]string{}}, err
}

func (w *workshop) close() { os.RemoveAll(w.dir) }

// product is a build of the programs, or the flags to build a package's tests.
type product struct {
	w     *workshop
	flags []string // for go build and go test
	bin   string   // the programs; empty: not needed
}

// build makes what a hole's test needs, with some edits of the sources.
func (w *workshop) build(h hole, edits []edit) (*product, error) {
	w.number++
	p := &product{w: w}
	work := filepath.Join(w.dir, fmt.Sprint(w.number))
	if err := os.MkdirAll(work, 0o755); err != nil {
		return nil, err
	}
	var err error
	if p.flags, err = w.edited(work, edits); err != nil {
		return nil, err
	}
	if h.test.kind == unit || h.test.kind == monitorUnit {
		return p, nil
	}
	p.bin = filepath.Join(work, "bin")
	// A whole build of what is not touched is the same every time.
	if whole := filepath.Join(w.dir, "bin"); len(edits) == 0 {
		if _, err := os.Stat(whole); err == nil {
			p.bin = whole
			return p, nil
		}
		p.bin = whole
	}
	if err := os.MkdirAll(p.bin, 0o755); err != nil {
		return nil, err
	}
	for _, program := range []struct{ name, cgo, tags, link string }{
		{"troupe", "0", pureTags, "-s -w"}, {"troupe-monitor", "1", monitorTags, "-s -w -extldflags -static"},
	} {
		args := append([]string{"build", "-trimpath", "-tags", program.tags, "-ldflags", program.link}, p.flags...)
		if out, err := w.run(10*time.Minute, "CGO_ENABLED="+program.cgo, "", "go", append(args, "-o", filepath.Join(p.bin, program.name), "./cmd/"+program.name)...); err != nil {
			return nil, fmt.Errorf("%s does not build: %w\n%s", program.name, err, out)
		}
	}
	return p, nil
}

// edited makes the flags by which a build sees edited sources.
func (w *workshop) edited(work string, edits []edit) ([]string, error) {
	files := map[string][]byte{}
	var flags []string
	library := ""
	for i, e := range edits {
		path := filepath.Join(w.root, e.file)
		if e.module != "" {
			if library == "" {
				library = filepath.Join(work, "library")
				modfile, err := w.copied(e.module, library, work)
				if err != nil {
					return nil, err
				}
				flags = append(flags, "-modfile="+modfile)
			}
			path = filepath.Join(library, e.file)
		}
		text, seen := files[path]
		if !seen {
			var err error
			if text, err = os.ReadFile(path); err != nil {
				return nil, err
			}
		}
		if n := bytes.Count(text, []byte(e.old)); n != 1 {
			return nil, fmt.Errorf("edit %d: %s has the text %d times, not once: the guard has moved, update e2e/cve\n%s", i, e.file, n, e.old)
		}
		files[path] = bytes.Replace(text, []byte(e.old), []byte(e.new), 1)
	}
	overlay := map[string]map[string]string{"Replace": {}}
	for path, text := range files {
		if strings.HasPrefix(path, library+"/") && library != "" {
			if err := os.WriteFile(path, text, 0o644); err != nil {
				return nil, err
			}
			continue
		}
		at := filepath.Join(work, fmt.Sprintf("%d.go", len(overlay["Replace"])))
		if err := os.WriteFile(at, text, 0o644); err != nil {
			return nil, err
		}
		overlay["Replace"][path] = at
	}
	if len(overlay["Replace"]) > 0 {
		data, err := json.Marshal(overlay)
		if err != nil {
			return nil, err
		}
		at := filepath.Join(work, "overlay.json")
		flags = append(flags, "-overlay="+at)
		return flags, os.WriteFile(at, data, 0o644)
	}
	return flags, nil
}

// copied copies a module's sources and gives a go.mod that names the copy: the
// compiler's overlay does not reach into the module cache.
func (w *workshop) copied(module, to, work string) (modfile string, err error) {
	out, err := w.run(time.Minute, "", "", "go", "list", "-m", "-f", "{{.Dir}}", module)
	if err != nil {
		return "", fmt.Errorf("where is %s: %w\n%s", module, err, out)
	}
	if out, err := w.run(time.Minute, "", "", "cp", "-r", "--no-preserve=mode", strings.TrimSpace(out), to); err != nil {
		return "", fmt.Errorf("copy %s: %w\n%s", module, err, out)
	}
	modfile = filepath.Join(work, "go.mod")
	text, err := os.ReadFile(filepath.Join(w.root, "go.mod"))
	if err != nil {
		return "", err
	}
	// Replacements by a directory are relative to the project.
	text = bytes.ReplaceAll(text, []byte("=> ./"), []byte("=> "+w.root+"/"))
	text = append(text, "\nreplace "+module+" => "+to+"\n"...)
	sums, err := os.ReadFile(filepath.Join(w.root, "go.sum"))
	if err != nil {
		return "", err
	}
	return modfile, errors.Join(os.WriteFile(modfile, text, 0o644), os.WriteFile(filepath.Join(work, "go.sum"), sums, 0o644))
}

// passes and fails run a test and say what is otherwise.
func (p *product) passes(t test) error {
	out, verdict := p.test(t)
	if verdict != "PASS" {
		return fmt.Errorf("its test says %s:\n%s", verdict, last(out, 25))
	}
	return nil
}

func (p *product) fails(t test) error {
	out, verdict := p.test(t)
	if verdict != "FAIL" {
		return fmt.Errorf("its test says %s instead of failing:\n%s", verdict, last(out, 25))
	}
	return nil
}

var verdicts = regexp.MustCompile(`(?m)^--- (PASS|FAIL|SKIP): (\S+)`)

// test runs one test; the verdict is go test's own word for it, so that what
// does not build, or does not even begin, is not taken for a failure.
func (p *product) test(t test) (output, verdict string) {
	const limit = 5 * time.Minute
	var err error
	args := append([]string{"test", "-count=1", "-v", "-timeout", limit.String(), "-run", "^" + t.name + "$"}, p.flags...)
	switch t.kind {
	case unit:
		output, err = p.w.run(limit, "CGO_ENABLED=0", "", "go", append(args, "-tags", pureTags, t.where)...)
	case monitorUnit:
		output, err = p.w.run(limit, "CGO_ENABLED=1", "", "go", append(args, "-tags", monitorTags, t.where)...)
	case kernel:
		// These tests build the monitor by themselves unless it is given.
		args = args[:len(args)-len(p.flags)]
		output, err = p.w.run(limit, "CGO_ENABLED=0", "TROUPE_TEST_MONITOR="+filepath.Join(p.bin, "troupe-monitor"), "go", append(args, "-tags", pureTags, t.where)...)
	case endToEnd:
		if p.w.e2e == "" {
			at := filepath.Join(p.w.dir, "e2e.test")
			if output, err = p.w.run(10*time.Minute, "CGO_ENABLED=0", "", "go", "test", "-c", "-tags", pureTags, "-o", at, t.where); err != nil {
				return output, "nothing, it does not build"
			}
			p.w.e2e = at
		}
		output, err = p.w.run(limit, "", "TROUPE_BIN="+p.bin, "sh", "-c", `cd "$1" && exec "$2" -test.count=1 -test.v -test.timeout=5m -test.run="$3"`,
			"sh", filepath.Join(p.w.root, t.where), p.w.e2e, "^"+t.name+"$")
	}
	for _, m := range verdicts.FindAllStringSubmatch(output, -1) {
		if m[2] == t.name {
			return output, m[1]
		}
	}
	return output, fmt.Sprintf("nothing (%v)", err)
}

func (w *workshop) run(limit time.Duration, env1, env2, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(w.ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.WaitDelay = w.root, 10*time.Second
	cmd.Env = os.Environ()
	for _, e := range []string{env1, env2} {
		if e != "" {
			cmd.Env = append(cmd.Env, e)
		}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func last(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// DefaultFile is read when no file is named, and need not exist.
const DefaultFile = "/etc/troupe/troupe.conf"

// Source says what to read: File, then every file of Dir in lexical order,
// then Set; the later wins, option by option.
type Source struct {
	File string   // empty: DefaultFile, which may be absent
	Dir  string   // empty: File with ".d" behind it, which may be absent
	Set  []string // key=value, the value in TOML or, for a string, bare
}

// Loaded is a configuration and where it comes from.
type Loaded struct {
	*Config
	Files    []string  // read, in order
	Findings []Finding // what has no effect, in order
	set      map[string]string
	source   Source
}

// Finding is an option in a file that has no effect.
type Finding struct {
	File, Key, Value string
	Unknown          bool   // not in crio.conf(5) nor ours
	Why              string // what happens instead, or where it belongs
}

func (f Finding) String() string {
	if f.Unknown {
		return fmt.Sprintf("%s: %s is not an option%s", f.File, f.Key, f.Why)
	}
	return fmt.Sprintf("%s: %s = %s is known but not honoured: %s", f.File, f.Key, f.Value, f.Why)
}

// Error is a configuration that cannot be used; the text says in which file,
// which option, and what to write instead. It is the exit code 2.
type Error struct{ Err error }

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Load reads the source. An error is an *Error and names every fault, one a line.
func Load(src Source) (*Loaded, error) {
	l := &Loaded{Config: Defaults(), set: map[string]string{}, source: src}
	files, err := src.files()
	if err != nil {
		return nil, &Error{err}
	}
	var faults []error
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			faults = append(faults, fmt.Errorf("%w; make it readable or take it away", err))
			continue
		}
		faults = append(faults, l.add(file, string(text))...)
		l.Files = append(l.Files, file)
	}
	for _, assignment := range src.Set {
		faults = append(faults, l.assign(assignment)...)
	}
	l.derive(l.isSet())
	faults = append(faults, l.checkHandlers()...)
	if len(faults) > 0 {
		return nil, &Error{errors.Join(faults...)}
	}
	return l, nil
}

func (s Source) files() ([]string, error) {
	file, explicit := s.File, s.File != ""
	if !explicit {
		file = DefaultFile
	}
	var files []string
	switch _, err := os.Stat(file); {
	case err == nil:
		files = append(files, file)
	case explicit || !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w; name an existing file with --config", err)
	}
	dir := s.Dir
	if dir == "" {
		dir = file + ".d"
	}
	entries, err := os.ReadDir(dir)
	if err != nil && (s.Dir != "" || !errors.Is(err, fs.ErrNotExist)) {
		return nil, fmt.Errorf("%w; name an existing directory with --config-dir", err)
	}
	for _, entry := range entries { // in lexical order, says os.ReadDir
		path := filepath.Join(dir, entry.Name())
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && !leftover(entry.Name()) {
			files = append(files, path)
		}
	}
	return files, nil
}

// leftover tells the files that editors and package managers leave behind.
// Drop-ins need no extension: machine-config operators write none.
func leftover(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") ||
		slices.ContainsFunc([]string{".rpmsave", ".rpmnew", ".rpmorig", ".dpkg-old", ".dpkg-dist", ".dpkg-new", ".swp"},
			func(suffix string) bool { return strings.HasSuffix(name, suffix) })
}

// add reads one file's text over what is there.
func (l *Loaded) add(file, text string) []error {
	var table map[string]any
	if _, err := toml.Decode(text, &table); err != nil {
		var syntax toml.ParseError
		if errors.As(err, &syntax) {
			return []error{fmt.Errorf("%s:%d: not TOML: %s; `troupe config` prints an example",
				file, syntax.Position.Line, syntax.Message)}
		}
		return []error{fmt.Errorf("%s: %w; `troupe config` prints an example", file, err)}
	}
	r := reader{loaded: l, file: file}
	r.table(nil, table)
	return r.faults
}

// assign is one --set.
func (l *Loaded) assign(assignment string) []error {
	const file = "--set"
	key, val, ok := strings.Cut(assignment, "=")
	key = strings.TrimSpace(key)
	if !ok || !strings.Contains(key, ".") {
		return []error{fmt.Errorf("%s %s: not an assignment; write --set table.option=value", file, assignment)}
	}
	if o, _ := find(strings.Split(key, ".")); o != nil {
		if _, isString := o.Default.(string); isString && !strings.HasPrefix(strings.TrimSpace(val), `"`) {
			val = quote(val)
		}
	}
	return l.add(file, key+" = "+val)
}

func (l *Loaded) isSet() map[string]bool {
	set := make(map[string]bool, len(l.set))
	for key := range l.set {
		set[key] = true
	}
	return set
}

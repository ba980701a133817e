package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// reader takes one file's tables into the configuration.
type reader struct {
	loaded *Loaded
	file   string
	faults []error
}

// table walks a table; path is where it stands.
func (r *reader) table(path []string, table map[string]any) {
	if name, ok := handlerOf(path); ok && len(path) == strings.Count(handlerPrefix, ".")+1 {
		r.loaded.handler(name) // a table without options is a handler as well
	}
	for _, key := range slices.Sorted(maps.Keys(table)) {
		r.entry(append(slices.Clone(path), key), table[key])
	}
}

func (r *reader) entry(path []string, v any) {
	if o, name := find(path); o != nil {
		r.option(o, name, path, v)
		return
	}
	if sub, ok := v.(map[string]any); ok {
		if len(sub) == 0 && !isTable(path) {
			r.unknown(path, v)
		}
		r.table(path, sub)
		return
	}
	if isTable(path) {
		r.fault(path, fmt.Errorf("is %s; it must be a table: [%s]", describe(v), strings.Join(path, ".")))
		return
	}
	r.unknown(path, v)
}

func (r *reader) option(o *Option, name string, path []string, v any) {
	val, err := o.convert(v)
	if err == nil {
		err = o.check(val)
	}
	if err != nil {
		r.fault(path, err)
		return
	}
	if o.Honoured() {
		o.put(r.loaded.Config, name, val)
		r.loaded.set[strings.Join(path, ".")] = r.file
		return
	}
	if !reflect.DeepEqual(val, o.Default) {
		r.finding(Finding{Key: strings.Join(path, "."), Value: literal(val), Why: o.Why})
	} else {
		r.withdraw(strings.Join(path, "."))
	}
}

// finding replaces what an earlier file had under the same key.
func (r *reader) finding(f Finding) {
	r.withdraw(f.Key)
	f.File = r.file
	r.loaded.Findings = append(r.loaded.Findings, f)
}

func (r *reader) withdraw(key string) {
	r.loaded.Findings = slices.DeleteFunc(r.loaded.Findings, func(f Finding) bool { return f.Key == key })
}

func (r *reader) unknown(path []string, v any) {
	why := "; `troupe config docs` lists all"
	if table := home(path[len(path)-1]); table != "" {
		why = "; it belongs into [" + table + "]"
	}
	r.finding(Finding{Key: strings.Join(path, "."), Value: describe(v), Unknown: true, Why: why})
}

func (r *reader) fault(path []string, err error) {
	r.faults = append(r.faults, fmt.Errorf("%s: %s %w", r.file, strings.Join(path, "."), err))
}

// find gives the option at a path, and what stands for its *.
func find(path []string) (*Option, string) {
	for i := range allOptions {
		if name, ok := match(strings.Split(allOptions[i].Key, "."), path); ok {
			return &allOptions[i], name
		}
	}
	return nil, ""
}

// match compares a key with a path and gives what stands for its *.
func match(key, path []string) (name string, ok bool) {
	if len(key) != len(path) {
		return "", false
	}
	for i, part := range key {
		switch part {
		case "*":
			name = path[i]
		case path[i]:
		default:
			return "", false
		}
	}
	return name, true
}

// isTable says whether options stand under the path.
func isTable(path []string) bool {
	return slices.ContainsFunc(allOptions, func(o Option) bool {
		key := strings.Split(o.Key, ".")
		if len(key) <= len(path) {
			return false
		}
		_, ok := match(key[:len(path)], path)
		return ok
	})
}

// home is the table an option of that name stands in, if only one has it.
func home(name string) string {
	var found []string
	for _, o := range allOptions {
		if o.Name() == name && !strings.Contains(o.Key, "*") {
			found = append(found, o.Table())
		}
	}
	if len(found) != 1 {
		return ""
	}
	return found[0]
}

// handlerOf gives the handler's name in a path under crio.runtime.runtimes.
func handlerOf(path []string) (string, bool) {
	depth := strings.Count(handlerPrefix, ".")
	if len(path) <= depth || strings.Join(path[:depth], ".")+"." != handlerPrefix {
		return "", false
	}
	return path[depth], true
}

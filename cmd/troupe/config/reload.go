package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Change is an option that a reload found changed.
type Change struct {
	Key, From, To string
	Live          bool // applied; else a restart is needed
}

// Reload reads the same source again. What can be changed while running is
// taken over into the answer's configuration; everything else keeps its old
// value there. An error leaves all as it was.
func (l *Loaded) Reload() (*Loaded, []Change, error) {
	fresh, err := Load(l.source)
	if err != nil {
		return nil, nil, err
	}
	next := *fresh
	next.Config = l.clone()
	var changes []Change
	for _, o := range Options() {
		if !o.Honoured() {
			continue
		}
		for _, name := range o.names(l.Config, fresh.Config) {
			change, differs := o.compare(l.Config, fresh.Config, name)
			if !differs {
				continue
			}
			changes = append(changes, change)
			if o.Reload {
				o.put(next.Config, name, o.get(fresh.Config, name))
			}
		}
	}
	return &next, changes, nil
}

// names are the handlers the option must be compared for.
func (o *Option) names(was, is *Config) []string {
	if !o.perHandler() {
		return []string{""}
	}
	names := append(sortedHandlers(was), sortedHandlers(is)...)
	slices.Sort(names)
	return slices.Compact(names)
}

func (o *Option) compare(was, is *Config, name string) (Change, bool) {
	before, after := o.read(was, name), o.read(is, name)
	if reflect.DeepEqual(before, after) {
		return Change{}, false
	}
	return Change{
		Key: strings.Replace(o.Key, "*", key(name), 1), From: literal(before), To: literal(after), Live: o.Reload,
	}, true
}

// read does not make a handler that is not there.
func (o *Option) read(c *Config, name string) any {
	if o.perHandler() && c.Handlers[name] == nil {
		return o.Default
	}
	return o.get(c, name)
}

func sortedHandlers(c *Config) []string { return slices.Sorted(maps.Keys(c.Handlers)) }

package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Option is one option of the file.
type Option struct {
	Key     string // full, dots between; a * stands for the name of a handler or workload
	Doc     string // one or more sentences
	Default any    // string, bool, int, []string, time.Duration or map[string]string
	Reload  bool   // SIGHUP applies it; else a restart does
	Why     string // not honoured: why, or what is done instead

	convert func(any) (any, error)
	get     func(c *Config, name string) any
	put     func(c *Config, name string, v any)
	checks  []func(any) error
	derived func(*Config) any // the default when it follows from other options
}

// value are the types an option can have.
type value interface {
	string | bool | int | []string | time.Duration | map[string]string
}

type mod func(*Option)

// honoured is an option that does something.
func honoured[T value](key string, def T, field func(*Config) *T, doc string, mods ...mod) Option {
	return perName(key, def, func(c *Config, _ string) *T { return field(c) }, doc, mods...)
}

// ofHandler is an honoured option of a runtime handler.
func ofHandler[T value](key string, def T, field func(*Handler) *T, doc string, mods ...mod) Option {
	return perName(handlerPrefix+"*."+key, def, func(c *Config, name string) *T { return field(c.handler(name)) }, doc, mods...)
}

func perName[T value](key string, def T, field func(*Config, string) *T, doc string, mods ...mod) Option {
	o := Option{Key: key, Doc: doc, Default: def, convert: converter[T]()}
	o.get = func(c *Config, name string) any { return *field(c, name) }
	o.put = func(c *Config, name string, v any) { *field(c, name) = v.(T) }
	for _, m := range mods {
		m(&o)
	}
	return o
}

// known is an option of crio.conf(5) that is not honoured; why says what
// happens instead. Its default is what Troupe does, so a file that asks for
// just that is not complained about.
func known[T value](key string, def T, why string) Option {
	return Option{Key: key, Default: def, Why: why, convert: converter[T]()}
}

// Honoured says whether the option does something.
func (o *Option) Honoured() bool { return o.put != nil }

// Table is the TOML table the option stands in.
func (o *Option) Table() string { return o.Key[:strings.LastIndex(o.Key, ".")] }

// Name is the option's name in its table.
func (o *Option) Name() string { return o.Key[strings.LastIndex(o.Key, ".")+1:] }

func (o *Option) perHandler() bool { return strings.HasPrefix(o.Key, handlerPrefix) }

func (o *Option) check(v any) error {
	for _, check := range o.checks {
		if err := check(v); err != nil {
			return err
		}
	}
	return nil
}

// live marks an option that SIGHUP applies.
func live(o *Option) { o.Reload = true }

// derived makes the default follow from other options.
func derived[T value](from func(*Config) T) mod {
	return func(o *Option) { o.derived = func(c *Config) any { return from(c) } }
}

func check[T value](fn func(T) error) mod {
	return func(o *Option) {
		o.checks = append(o.checks, func(v any) error { return fn(v.(T)) })
	}
}

func oneOf(values ...string) mod {
	return check(func(v string) error {
		if slices.Contains(values, v) {
			return nil
		}
		return fmt.Errorf("is %q; use one of: %s", v, strings.Join(quoted(values), ", "))
	})
}

func atLeast(least int) mod {
	return check(func(v int) error {
		if v >= least {
			return nil
		}
		return fmt.Errorf("is %d; use %d or more", v, least)
	})
}

// absolute accepts an absolute path or nothing.
func absolute(o *Option) { check(absolutePath)(o) }

// absoluteOrUnconfined also accepts the word for no profile at all.
func absoluteOrUnconfined(o *Option) {
	check(func(v string) error {
		if v == "unconfined" {
			return nil
		}
		return absolutePath(v)
	})(o)
}

// absolutes is absolute for lists.
func absolutes(o *Option) {
	check(func(v []string) error {
		for _, path := range v {
			if err := absolutePath(path); err != nil {
				return err
			}
		}
		return nil
	})(o)
}

func absolutePath(v string) error {
	if v == "" || strings.HasPrefix(v, "/") {
		return nil
	}
	return fmt.Errorf("is %q; use an absolute path", v)
}

// pairs accepts a list of name=value.
func pairs(o *Option) {
	check(func(v []string) error {
		for _, item := range v {
			if name, _, ok := strings.Cut(item, "="); !ok || strings.TrimSpace(name) == "" {
				return fmt.Errorf("has %q; use name=value", item)
			}
		}
		return nil
	})(o)
}

func notNegative(v time.Duration) error {
	if v < 0 {
		return fmt.Errorf("is %s; use 0s or more", v)
	}
	return nil
}

func quoted(values []string) []string {
	q := make([]string, len(values))
	for i, v := range values {
		q[i] = fmt.Sprintf("%q", v)
	}
	return q
}

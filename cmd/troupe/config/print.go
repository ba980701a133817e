package config

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
)

// Print writes the configuration as a file: what differs from the defaults as
// it is, the rest as comments. Options that are not honoured are only named.
func Print(w io.Writer, c *Config) error {
	p := &printer{w: w, config: c, defaults: Defaults()}
	p.line("# Configuration of troupe: the format is crio.conf(5), with a table [troupe].")
	p.line("# Lines that start with #word are defaults; those that start with # word explain.")
	p.line("# troupe.conf.d/* is read after this file, in lexical order; the later wins.")
	p.line("# `troupe config check` says whether a file is right and what has no effect.")
	for _, table := range tableOrder() {
		p.table(table)
	}
	return p.err
}

type printer struct {
	w                io.Writer
	config, defaults *Config
	err              error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (p *printer) table(table string) {
	var ignored []string
	p.line("")
	p.wrapped("# ", tables[table])
	names := []string{""}
	if strings.HasPrefix(table, handlerPrefix) {
		names = sortedHandlers(p.config)
	}
	for _, name := range names {
		p.options(table, name)
	}
	for _, o := range optionsOf(table) {
		if !o.Honoured() {
			ignored = append(ignored, o.Name())
		}
	}
	if len(ignored) > 0 {
		p.line("# [%s]: known, not honoured yet:", table)
		p.wrapped("#   ", strings.Join(ignored, ", "))
	}
}

func (p *printer) options(table, name string) {
	options := slices.DeleteFunc(optionsOf(table), func(o Option) bool { return !o.Honoured() })
	if len(options) == 0 {
		return
	}
	p.line("[%s]", strings.Replace(table, "*", key(name), 1))
	for _, o := range options {
		doc := o.Doc
		if o.Reload {
			doc += " SIGHUP applies a change."
		}
		p.wrapped("# ", doc)
		val, mark := o.get(p.config, name), ""
		if reflect.DeepEqual(val, p.defaultOf(&o, name)) {
			mark = "#"
		}
		p.line("%s%s = %s", mark, o.Name(), literal(val))
	}
}

func (p *printer) defaultOf(o *Option, name string) any {
	if o.perHandler() && p.defaults.Handlers[name] == nil {
		return o.Default
	}
	return o.get(p.defaults, name)
}

// wrapped breaks text into lines of at most 96 columns.
func (p *printer) wrapped(prefix, text string) {
	line := prefix
	for _, word := range strings.Fields(text) {
		if len(line)+len(word) > 95 && line != prefix {
			p.line("%s", strings.TrimRight(line, " "))
			line = prefix
		}
		line += word + " "
	}
	p.line("%s", strings.TrimRight(line, " "))
}

// key writes a handler's name as a TOML key.
func key(name string) string {
	bare := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
	}
	if name != "" && strings.IndexFunc(name, func(r rune) bool { return !bare(r) }) < 0 {
		return name
	}
	return quote(name)
}

// Docs writes every option with its default, as Markdown, for the manual.
func Docs(w io.Writer) error {
	p := &printer{w: w, defaults: Defaults()}
	p.line("# troupe.conf(5)\n")
	p.line("The format is TOML. All tables but [troupe] are those of crio.conf(5). `SIGHUP` applies")
	p.line("the options marked *live*; the others need a restart, which leaves containers running.")
	for _, table := range tableOrder() {
		p.line("\n## [%s]\n\n%s\n", table, tables[table])
		p.line("| Option | Default | |\n| --- | --- | --- |")
		for _, o := range optionsOf(table) {
			p.line("| `%s` | `%s` | %s |", o.Name(), literal(p.defaultValue(&o)), o.describe())
		}
	}
	return p.err
}

func (p *printer) defaultValue(o *Option) any {
	if o.Honoured() && o.derived != nil {
		return o.get(p.defaults, "")
	}
	return o.Default
}

func (o *Option) describe() string {
	switch {
	case !o.Honoured():
		return "*not honoured*: " + o.Why
	case o.Reload:
		return o.Doc + " *live*"
	}
	return o.Doc
}

func tableOrder() []string {
	var order []string
	for _, o := range Options() {
		if !slices.Contains(order, o.Table()) {
			order = append(order, o.Table())
		}
	}
	return order
}

func optionsOf(table string) []Option {
	return slices.DeleteFunc(slices.Clone(Options()), func(o Option) bool { return o.Table() != table })
}

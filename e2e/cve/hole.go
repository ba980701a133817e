package main

import (
	"fmt"
	"io"
	"strings"
)

// hole is one way in that others had, under all the numbers it got.
type hole struct {
	cves    []string
	whose   string // the runtimes that had it
	what    string
	test    test
	guard   []edit // take the guard away
	mistake []edit // a mistake that the guard is there for; empty: none is needed
	// notShown says why there is nothing to take away, or why that would be
	// dangerous on this machine. Then only the test is run.
	notShown string
}

// edit replaces a text that must be there exactly once.
type edit struct {
	module string // of the file; empty: ours
	file   string
	old    string
	new    string
}

type kind int

const (
	unit        kind = iota
	monitorUnit      // of the monitor's own package
	kernel           // of backends/monitor, with the monitor's binary
	endToEnd
)

type test struct {
	kind  kind
	where string // package
	name  string
}

func (t test) String() string { return t.where + " " + t.name }

func e2eTest(name string) test        { return test{endToEnd, "./e2e", name} }
func bundles(name string) test        { return test{unit, "./backends/bundles", name} }
func imageTest(name string) test      { return test{unit, "./backends/images", name} }
func monitorIs(name string) test      { return test{monitorUnit, "./cmd/troupe-monitor", name} }
func ours(file, old, new string) edit { return edit{file: file, old: old, new: new} }

const libcontainer = "github.com/opencontainers/runc"

// runc is an edit of libcontainer, which the monitor links.
func runc(file, old, new string) edit {
	return edit{module: libcontainer, file: "libcontainer/" + file, old: old, new: new}
}

// where names the guard.
func (h hole) where() string {
	var files []string
	for _, e := range h.guard {
		name := e.file
		if e.module != "" {
			name = e.module + "/" + e.file
		}
		if len(files) == 0 || files[len(files)-1] != name {
			files = append(files, name)
		}
	}
	return strings.Join(files, ", ")
}

// writeTable writes the whole table for people.
func writeTable(out io.Writer) {
	fmt.Fprint(out, "| CVE | in | the hole | test | guard |\n| --- | --- | --- | --- | --- |\n")
	for _, h := range holes {
		guard := "`" + h.where() + "`"
		if h.notShown != "" {
			guard = "not shown: " + h.notShown
		}
		fmt.Fprintf(out, "| %s | %s | %s | `%s` | %s |\n", strings.Join(h.cves, ", "), h.whose, h.what, h.test.name, guard)
	}
	fmt.Fprint(out, "\nNot ours:\n\n| CVE | in | why not |\n| --- | --- | --- |\n")
	for _, n := range notOurs {
		fmt.Fprintf(out, "| %s | %s | %s |\n", n.cves, n.whose, n.why)
	}
}

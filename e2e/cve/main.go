// Command cve shows of every published hole of the other runtimes that it is
// closed here, and that a guard of ours closes it: its test passes, and fails on
// a build without the guard. As root, in the project's directory; -run takes a
// regular expression on the CVEs, -list only lists what is in the table.
//
// The tree is never changed: a build without a guard is made by the compiler's
// overlay, and of a copy where the guard is a library's.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"time"
)

func main() {
	run := flag.String("run", "", "regular expression: the CVEs to try; empty: all")
	list := flag.Bool("list", false, "write the table as Markdown and try nothing")
	flag.Parse()
	if *list {
		writeTable(os.Stdout)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := try(ctx, *run); err != nil {
		fmt.Fprintln(os.Stderr, "cve-test:", err)
		os.Exit(1)
	}
}

// tally is what the last line says.
type tally struct{ cves, closed, proven, notShown, wrong int }

func (t tally) String() string {
	return fmt.Sprintf("cve-test: %d CVEs, %d closed, %d guards proven, %d not shown", t.cves, t.closed, t.proven, t.notShown)
}

func try(ctx context.Context, expression string) error {
	only, err := regexp.Compile(expression)
	if err != nil {
		return err
	}
	w, err := newWorkshop(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	var t tally
	for _, h := range holes {
		if !only.MatchString(strings.Join(h.cves, " ")) {
			continue
		}
		t.add(h, w)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	fmt.Println(t)
	if t.wrong > 0 || t.closed < t.cves {
		return fmt.Errorf("%d are not as they should be", t.wrong)
	}
	return nil
}

// add tries one hole and prints its line.
func (t *tally) add(h hole, w *workshop) {
	began := time.Now()
	t.cves += len(h.cves)
	line := func(word, more string) {
		fmt.Printf("%-14s %-52s %s (%.0f s)\n", word, strings.Join(h.cves, " "), more, time.Since(began).Seconds())
	}
	// What the guard is there for, if that is a mistake of ours: the test must
	// pass with it, or the guard would not be what closes the hole.
	whole, err := w.build(h, h.mistake)
	if err == nil {
		err = whole.passes(h.test)
	}
	if err != nil {
		t.wrong++
		line("OPEN", fmt.Sprintf("%s: %v", h.test, err))
		return
	}
	t.closed += len(h.cves)
	if h.notShown != "" {
		t.notShown++
		line("not shown", h.notShown)
		return
	}
	without, err := w.build(h, append(h.mistake[:len(h.mistake):len(h.mistake)], h.guard...))
	if err == nil {
		err = without.fails(h.test)
	}
	if err != nil {
		t.wrong++
		line("NOT PROVEN", fmt.Sprintf("without %s: %v", h.where(), err))
		return
	}
	t.proven++
	line("guard proven", h.where())
}

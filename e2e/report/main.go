// Command report turns what `go test -json` says into a line for each item and
// one with the sums: PASS or FAIL, the name, and for a failure its first
// words. An item is a test without subtests. It ends with status 1 when one
// failed, or nothing passed.
//
//	go test -json ./e2e/x | go run ./e2e/report -log file
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// event is a line of test2json's output (go doc test2json).
type event struct {
	Action, Test, Output string
	Elapsed              float64
}

type report struct {
	said                    map[string][]string // what each test printed
	parents                 map[string]bool
	passed, failures, skips int
	broken                  bool
	out, log                io.Writer
}

func main() {
	log := flag.String("log", os.DevNull, "file for all that the tests printed")
	flag.Parse()
	file, err := os.Create(*log)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	defer file.Close()
	r := &report{said: map[string][]string{}, parents: map[string]bool{}, out: os.Stdout, log: file}
	r.read(os.Stdin)
	if !r.sum() {
		os.Exit(1)
	}
}

func (r *report) read(in io.Reader) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			e = event{Action: "output", Output: lines.Text() + "\n"} // the compiler's words
		}
		r.take(e)
	}
}

func (r *report) take(e event) {
	switch e.Action {
	case "output", "build-output":
		fmt.Fprint(r.log, e.Output)
		r.said[e.Test] = append(r.said[e.Test], e.Output)
	case "run":
		for parent := e.Test; strings.Contains(parent, "/"); {
			parent = parent[:strings.LastIndex(parent, "/")]
			r.parents[parent] = true
		}
	case "pass", "fail", "skip":
		switch {
		case e.Test == "" && e.Action == "fail":
			r.broken = true
		case e.Test == "":
		case r.parents[e.Test] && !(e.Action == "fail" && reason(r.said[e.Test]) != ""):
		default:
			r.item(e)
		}
	}
}

func (r *report) item(e event) {
	switch e.Action {
	case "pass":
		r.passed++
		fmt.Fprintf(r.out, "PASS %s (%.1f s)\n", e.Test, e.Elapsed)
	case "fail":
		r.failures++
		fmt.Fprintf(r.out, "FAIL %s – %s\n", e.Test, reason(r.said[e.Test]))
	case "skip":
		r.skips++
		fmt.Fprintf(r.out, "SKIP %s – %s\n", e.Test, reason(r.said[e.Test]))
	}
}

// where is how the testing package begins a test's own words.
var where = regexp.MustCompile(`^\s*\S+\.go:\d+: `)

// reason is the first thing a test complained about.
func reason(said []string) string {
	for _, line := range said {
		if where.MatchString(line) {
			return strings.TrimSpace(where.ReplaceAllString(line, ""))
		}
	}
	for _, line := range said {
		if strings.HasPrefix(line, "panic: ") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// sum prints the last line and says whether all is well.
func (r *report) sum() bool {
	if r.broken && r.failures == 0 { // not a test, but what is around them
		fmt.Fprintf(r.out, "FAIL the run itself – %s\n", strings.Join(strings.Fields(strings.Join(r.said[""], " ")), " "))
		r.failures++
	}
	line := fmt.Sprintf("%d passed, %d failed", r.passed, r.failures)
	if r.skips > 0 {
		line += fmt.Sprintf(", %d skipped", r.skips)
	}
	fmt.Fprintln(r.out, line)
	return r.failures == 0 && r.passed > 0
}

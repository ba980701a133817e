package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// tally is how a run of the suite ended.
type tally struct{ passed, failed, skipped int }

func (t tally) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", t.passed, t.failed, t.skipped)
}

func (t *tally) add(o tally) {
	t.passed += o.passed
	t.failed += o.failed
	t.skipped += o.skipped
}

// spec is what is read of ginkgo's JSON report (types.SpecReport).
type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeType            string
	LeafNodeText            string
	State                   string
	Failure                 struct{ Message string }
}

func (s spec) name() string {
	parts := append(append([]string(nil), s.ContainerHierarchyTexts...), s.LeafNodeText)
	if s.LeafNodeText == "" { // a set-up or tear-down of the suite
		parts = append(parts, s.LeafNodeType)
	}
	return strings.ReplaceAll(strings.TrimSpace(strings.Join(parts, " ")), "[k8s.io] ", "")
}

func (s spec) reason() string {
	reason := strings.Join(strings.Fields(s.Failure.Message), " ")
	if len(reason) > 600 {
		reason = reason[:600] + "…"
	}
	return reason
}

// summarize prints every failure and every skip with its reason. What the
// focus left out has no reason and is not counted.
func summarize(w io.Writer, path string) (tally, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return tally{}, fmt.Errorf("critest wrote no report: %w", err)
	}
	var suites []struct{ SpecReports []spec }
	if err := json.Unmarshal(raw, &suites); err != nil {
		return tally{}, fmt.Errorf("reading critest's report %s: %w", path, err)
	}
	var t tally
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			switch {
			case s.State == "passed":
				if s.LeafNodeType == "It" {
					t.passed++
				}
			case s.State == "pending" || s.State == "skipped" && s.Failure.Message == "":
			case s.State == "skipped":
				t.skipped++
				fmt.Fprintf(w, "SKIP %s: %s\n", s.name(), s.reason())
			default: // failed, panicked, timedout, interrupted, aborted
				t.failed++
				fmt.Fprintf(w, "FAIL %s: %s (%s)\n", s.name(), s.reason(), s.State)
			}
		}
	}
	return t, nil
}

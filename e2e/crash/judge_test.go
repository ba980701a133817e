package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func logOf(name string, from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, "2026-11-30T00:00:00Z stdout F %s %d\n", name, i)
	}
	return b.String()
}

func TestALogIsJudgedByEachLineOnce(t *testing.T) {
	for what, c := range map[string]struct {
		parts         []string
		truth         truth
		lost, doubled int
		bad           bool
	}{
		"whole":                   {parts: []string{logOf("a", 0, 30)}, truth: truth{true, 30, 7}},
		"whole, in two files":     {parts: []string{logOf("a", 0, 20), logOf("a", 20, 30)}, truth: truth{true, 30, 7}},
		"killed":                  {parts: []string{logOf("a", 0, 30)}},
		"nothing written":         {parts: []string{""}},
		"its end is missing":      {parts: []string{logOf("a", 0, 28)}, truth: truth{true, 30, 7}, lost: len("a 28\na 29\n")},
		"a hole":                  {parts: []string{logOf("a", 0, 5) + logOf("a", 6, 9)}, lost: len("a 5\n")},
		"all is missing":          {parts: []string{""}, truth: truth{true, 2, 7}, lost: len("a 0\na 1\n")},
		"a line twice":            {parts: []string{logOf("a", 0, 5) + logOf("a", 4, 9)}, doubled: 1},
		"more than was written":   {parts: []string{logOf("a", 0, 31)}, truth: truth{true, 30, 7}, bad: true},
		"torn":                    {parts: []string{strings.TrimSuffix(logOf("a", 0, 5), "\n")}, bad: true},
		"another's line":          {parts: []string{logOf("b", 0, 5)}, bad: true},
		"a line in pieces":        {parts: []string{"t stdout P a \nt stdout F 0\n" + logOf("a", 1, 5)}},
		"a piece that is missing": {parts: []string{"t stdout F 0\n" + logOf("a", 1, 5)}, bad: true},
	} {
		var paths []string
		for i, p := range c.parts {
			paths = append(paths, filepath.Join(t.TempDir(), fmt.Sprint(i)))
			if err := os.WriteFile(paths[i], []byte(p), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var r result
		err := judgeLog(&r, "a", c.truth, paths...)
		if r.Lost != c.lost || r.Doubled != c.doubled || (err != nil) != c.bad {
			t.Errorf("%s: lost %d, doubled %d, %v", what, r.Lost, r.Doubled, err)
		}
	}
}

func TestAnExitIsInventedWhenItDidNotHappenSo(t *testing.T) {
	told := truth{true, 30, 7}
	for what, c := range map[string]struct {
		code     int32
		reason   string
		truth    truth
		invented bool
		unknown  int
	}{
		"true":                        {code: 7, reason: "Error", truth: told},
		"another":                     {code: 0, reason: "Completed", truth: told, invented: true},
		"killed":                      {code: 137, reason: "Error"},
		"killed, but it ended itself": {code: 137, reason: "Error", truth: told, invented: true},
		"unknown":                     {code: -1, reason: "Unknown", truth: told, unknown: 1},
		"unknown with a code":         {code: 255, reason: "Unknown", truth: told, unknown: 1, invented: true},
		"never started":               {code: 128, reason: "StartError"},
		"never started, but it ran":   {code: 128, reason: "StartError", truth: told, invented: true},
		"nobody knows of it":          {code: 0, reason: "Completed", invented: true},
		"a pipe that broke under it":  {code: 141, reason: "Error", invented: true},
	} {
		var r result
		judgeExit(&r, "c", &runtime.ContainerStatus{ExitCode: c.code, Reason: c.reason}, c.truth)
		if (len(r.Invented) > 0) != c.invented || r.Unknown != c.unknown {
			t.Errorf("%s: %v, unknown %d", what, r.Invented, r.Unknown)
		}
	}
}

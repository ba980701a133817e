package main

import (
	"io"
	"strings"
	"testing"
)

func TestEveryItemHasALineAndTheLastHasTheSums(t *testing.T) {
	for name, c := range map[string]struct {
		in, want string
		well     bool
	}{
		"all pass": {`{"Action":"run","Test":"TestA"}
{"Action":"pass","Test":"TestA","Elapsed":1.26}
{"Action":"pass"}`, "PASS TestA (1.3 s)\n1 passed, 0 failed\n", true},
		"a parent is not an item, its part is": {`{"Action":"run","Test":"TestA"}
{"Action":"run","Test":"TestA/b"}
{"Action":"output","Test":"TestA/b","Output":"    a_test.go:7: no luck\n"}
{"Action":"fail","Test":"TestA/b"}
{"Action":"fail","Test":"TestA"}
{"Action":"fail"}`, "FAIL TestA/b – no luck\n0 passed, 1 failed\n", false},
		"a parent that fails itself is": {`{"Action":"run","Test":"TestA"}
{"Action":"run","Test":"TestA/b"}
{"Action":"pass","Test":"TestA/b"}
{"Action":"output","Test":"TestA","Output":"    a_test.go:9: afterwards\n"}
{"Action":"fail","Test":"TestA"}`, "PASS TestA/b (0.0 s)\nFAIL TestA – afterwards\n1 passed, 1 failed\n", false},
		"what is no test fails, too": {"x.go:1: does not compile\n" + `{"Action":"fail"}`, "FAIL the run itself – x.go:1: does not compile\n0 passed, 1 failed\n", false},
		"nothing at all":             {"", "0 passed, 0 failed\n", false},
		"a skip is told": {`{"Action":"run","Test":"TestA"}
{"Action":"pass","Test":"TestA"}
{"Action":"output","Test":"TestB","Output":"    b_test.go:1: no SELinux here\n"}
{"Action":"skip","Test":"TestB"}`, "PASS TestA (0.0 s)\nSKIP TestB – no SELinux here\n1 passed, 0 failed, 1 skipped\n", true},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			r := &report{said: map[string][]string{}, parents: map[string]bool{}, out: &out, log: io.Discard}
			r.read(strings.NewReader(c.in))
			well := r.sum()
			if out.String() != c.want || well != c.well {
				t.Errorf("well %v, got:\n%swant %v:\n%s", well, out.String(), c.well, c.want)
			}
		})
	}
}

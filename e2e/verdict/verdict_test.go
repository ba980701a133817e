package verdict

import (
	"math"
	"strings"
	"testing"
)

func TestTheLastLineSaysHowManyWereMet(t *testing.T) {
	text := Table("other", []Target{
		AtMost("a: as wanted", 0.5, 1, 2), AtMost("b: too much", 0.5, 1.1, 2),
		AtLeast("c: as wanted", 4, 8, 2), AtLeast("d: too little", 4, 7, 2),
		NoMore("e: as wanted", 1, 1), NoMore("f: too much", 1, 1.5), AtMost("g: was not measured", 1, math.NaN(), 1),
	})
	if !strings.HasSuffix(text, "\n3 met, 4 missed\n") {
		t.Error(text)
	}
	for line := range strings.Lines(text) {
		if strings.Contains(line, "as wanted") == strings.Contains(line, "| missed |") && strings.Contains(line, ":") && !strings.Contains(line, "--") {
			t.Errorf("the verdict of %s", line)
		}
	}
}

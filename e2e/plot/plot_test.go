package plot

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestPicturesAreSoundXMLWithBothColourSchemesAndNothingFromElsewhere(t *testing.T) {
	for name, svg := range map[string]string{
		"ratios":    Ratios("a & b <c>", []Ratio{{"x < y", 0.3, 0.5}, {"too long", 3, 0.5}}),
		"lines":     Lines("flat", "pods", []Series{{"start", []float64{10, 100, 1000}, []float64{5, 6, 7}}, {"one", []float64{10}, []float64{1}}}),
		"waterfall": Waterfall("a start", []Bar{{"cgroup", 0, 1, 0.5}, {"network", 0.2, 9, 0}}),
		"empty":     Waterfall("none", nil),
	} {
		d := xml.NewDecoder(strings.NewReader(svg))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, svg)
			}
		}
		if !strings.Contains(svg, "prefers-color-scheme:dark") || strings.Contains(strings.ReplaceAll(svg, "http://www.w3.org/2000/svg", ""), "http") || strings.Contains(svg, "NaN") {
			t.Errorf("%s:\n%s", name, svg)
		}
	}
}

// Package plot draws the benchmarks' figures as SVG which reads in light and
// dark, and needs nothing from elsewhere.
package plot

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// style follows what the reader's system prefers, also where the picture is
// embedded in a page.
const style = `<style>
text{font:12px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600;font-size:14px}.muted{fill:#59636e}
.axis{stroke:#d1d9e0}.ours{fill:#0969da}.over{fill:#bc4c00}.floor{fill:#1a7f37}.line{fill:none;stroke-width:2}
.wanted{stroke:#1a7f37;stroke-width:2}.peer{stroke:#59636e;stroke-dasharray:3 3}
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.muted{fill:#9198a1}.axis{stroke:#3d444d}.ours{fill:#4493f8}.over{fill:#db6d28}
.floor{fill:#3fb950}.wanted{stroke:#3fb950}.peer{stroke:#9198a1}}
</style>
`

type canvas struct {
	strings.Builder
	width, height float64
}

func draw(title string, width, height float64) *canvas {
	c := &canvas{width: width, height: height}
	fmt.Fprintf(c, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`+"\n", width, height, html.EscapeString(title))
	c.WriteString(style)
	c.text(12, 22, "start", "title", title)
	return c
}

func (c *canvas) text(x, y float64, anchor, class, text string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" text-anchor="%s" class="%s">%s</text>`+"\n", x, y, anchor, class, html.EscapeString(text))
}

func (c *canvas) bar(x, y, width, height float64, class, title string) {
	fmt.Fprintf(c, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="2" class="%s"><title>%s</title></rect>`+"\n", x, y, max(width, 1), height, class, html.EscapeString(title))
}

func (c *canvas) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(c, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`+"\n", x1, y1, x2, y2, class)
}

func (c *canvas) end() string {
	c.WriteString("</svg>\n")
	return c.String()
}

// Ratio is a figure as a part of the peer's, less is better, and how much is
// wanted at most.
type Ratio struct {
	Text          string
	Value, Wanted float64
}

// Ratios draws a bar for each: the peer's is as long as the dashed line is far.
func Ratios(title string, rows []Ratio) string {
	const left, right, row, top = 410.0, 20.0, 24.0, 50.0
	const length = 400.0
	c := draw(title, left+length*1.25+right, top+row*float64(len(rows))+16)
	c.text(left+length, top-8, "middle", "muted", "the other's = 1")
	c.line(left+length, top-4, left+length, top+row*float64(len(rows)), "peer")
	for i, r := range rows {
		y, class := top+row*float64(i), "ours"
		if r.Value > r.Wanted {
			class = "over"
		}
		c.text(left-8, y+15, "end", "", r.Text)
		shown := min(r.Value, 1.25)
		c.bar(left, y+4, shown*length, row-9, class, fmt.Sprintf("%s: %.2f, wanted at most %.2f", r.Text, r.Value, r.Wanted))
		c.line(left+min(r.Wanted, 1.25)*length, y+1, left+min(r.Wanted, 1.25)*length, y+row-2, "wanted")
		c.text(left+max(shown, min(r.Wanted, 1.25))*length+8, y+15, "start", "muted", fmt.Sprintf("%.2f", r.Value))
	}
	return c.end()
}

// Series is a line of points, by ascending X.
type Series struct {
	Name string
	X, Y []float64
}

// Lines draws all with their own scale each: what counts is whether a line is
// flat. Y is shown relative to the series' first.
func Lines(title, x string, all []Series) string {
	const left, right, top, bottom, width, height = 60.0, 270.0, 46.0, 40.0, 560.0, 300.0
	colours := []string{"#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#9a6700", "#57606a", "#cf222e"}
	c := draw(title, left+width+right, top+height+bottom)
	most, first, last := 1.5, math.Inf(1), 0.0
	for _, s := range all {
		for i := range s.X {
			most, first, last = max(most, s.Y[i]/s.Y[0]), min(first, s.X[i]), max(last, s.X[i])
		}
	}
	at := func(x, y float64) (float64, float64) {
		return left + width*math.Log(x/first)/math.Log(max(last/first, 1.0001)), top + height*(1-y/most)
	}
	step := 0.5 * math.Ceil(most/4)
	for y := 0.0; y <= most; y += step {
		_, v := at(first, y)
		c.line(left, v, left+width, v, "axis")
		c.text(left-8, v+4, "end", "muted", fmt.Sprintf("%.1f ×", y))
	}
	for k, s := range all {
		var points strings.Builder
		for i := range s.X {
			h, v := at(s.X[i], s.Y[i]/s.Y[0])
			fmt.Fprintf(&points, "%.1f,%.1f ", h, v)
			if k == 0 {
				c.text(h, top+height+16, "middle", "muted", fmt.Sprintf("%.0f", s.X[i]))
			}
		}
		colour := colours[k%len(colours)]
		fmt.Fprintf(c, `<polyline points="%s" class="line" stroke="%s"/>`+"\n", strings.TrimSpace(points.String()), colour)
		fmt.Fprintf(c, `<rect x="%.1f" y="%.1f" width="10" height="10" fill="%s"/>`+"\n", left+width+14, top+20*float64(k), colour)
		c.text(left+width+30, top+20*float64(k)+10, "start", "", s.Name)
	}
	c.text(left+width/2, top+height+34, "middle", "muted", x)
	return c.end()
}

// Bar is a step in a waterfall; times are milliseconds since its begin. Floor
// is what the kernel's own work takes, 0 when it is not known.
type Bar struct {
	Text              string
	Start, End, Floor float64
}

// Waterfall draws steps below each other, each with its floor.
func Waterfall(title string, bars []Bar) string {
	const left, right, row, top, width = 210.0, 150.0, 24.0, 50.0, 520.0
	c := draw(title, left+width+right, top+row*float64(len(bars))+30)
	last := 0.001
	for _, b := range bars {
		last = max(last, b.End)
	}
	at := func(t float64) float64 { return left + width*t/last }
	for i := range 6 {
		x := at(last * float64(i) / 5)
		c.line(x, top-4, x, top+row*float64(len(bars)), "axis")
		c.text(x, top+row*float64(len(bars))+18, "middle", "muted", fmt.Sprintf("%.1f ms", last*float64(i)/5))
	}
	for i, b := range bars {
		y := top + row*float64(i)
		c.text(left-8, y+15, "end", "", b.Text)
		c.bar(at(b.Start), y+4, at(b.End)-at(b.Start), row-9, "ours", fmt.Sprintf("%s: %.2f ms", b.Text, b.End-b.Start))
		said := fmt.Sprintf("%.1f ms", b.End-b.Start)
		if b.Floor > 0 {
			c.bar(at(b.Start), y+row-8, at(min(b.Start+b.Floor, last))-at(b.Start), 4, "floor", fmt.Sprintf("floor: %.2f ms", b.Floor))
			said += fmt.Sprintf(", floor %.1f", b.Floor)
		}
		c.text(at(b.End)+6, y+15, "start", "muted", said)
	}
	return c.end()
}

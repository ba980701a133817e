package stats

import (
	"bytes"
	"math"
	"strconv"

	"github.com/troupe-run/troupe/messages"
)

// The kernel's small files, parsed in place: what is read every ten seconds for
// each container must not leave garbage.

// lines goes through a file line by line.
type lines []byte

func (l *lines) next() (line []byte, ok bool) {
	if len(*l) == 0 {
		return nil, false
	}
	line, *l, _ = bytes.Cut(*l, []byte{'\n'})
	return line, true
}

// words goes through a line word by word.
type words []byte

func (w *words) next() (word []byte, ok bool) {
	rest := bytes.TrimLeft(*w, " \t")
	end := bytes.IndexAny(rest, " \t\n")
	if end < 0 {
		end = len(rest)
	}
	*w = rest[end:]
	return rest[:end], end > 0
}

// number is a whole number; "max" and what else is no number is not known.
func number(text []byte) messages.Amount {
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		return messages.Amount{}
	}
	var n uint64
	for _, c := range text {
		digit := uint64(c - '0')
		if c < '0' || c > '9' || n > (math.MaxUint64-digit)/10 {
			return messages.Amount{}
		}
		n = n*10 + digit
	}
	return messages.Measured(n)
}

// numbered reads "key number" lines, as in memory.stat.
func numbered(text []byte, each func(key []byte, n uint64)) {
	for l := lines(text); ; {
		line, ok := l.next()
		if !ok {
			return
		}
		key, value, _ := bytes.Cut(line, []byte{' '})
		if n := number(value); n.Known {
			each(key, n.N)
		}
	}
}

// pressure reads a PSI file (Documentation/accounting/psi.rst); its times are
// in microseconds.
func pressure(text []byte) (p messages.Pressure) {
	for l := lines(text); ; {
		line, ok := l.next()
		if !ok {
			return p
		}
		w := words(line)
		kind, _ := w.next()
		var s messages.Stall
		for field, ok := w.next(); ok; field, ok = w.next() {
			key, value, _ := bytes.Cut(field, []byte{'='})
			switch string(key) {
			case "avg10":
				s.Avg10 = decimal(value)
			case "avg60":
				s.Avg60 = decimal(value)
			case "avg300":
				s.Avg300 = decimal(value)
			case "total":
				s.Total = number(value).N * 1000
			}
		}
		switch string(kind) {
		case "some":
			p.Some, p.Known = s, true
		case "full":
			p.Full, p.Known = s, true
		}
	}
}

func decimal(text []byte) float64 {
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return 0
	}
	return f
}

package images

import (
	"io"
	"strings"
	"testing"
	"time"
)

// The library takes the end of the errors for the end of all.
func TestTheErrorsOfPartsEndAfterTheLastPart(t *testing.T) {
	r := &ranges{ctx: t.Context(), seen: func(int64) {}}
	from, errs, to, told := make(chan io.ReadCloser), make(chan error), make(chan io.ReadCloser), make(chan error)
	go r.pass(nil, from, errs, to, told)
	from <- io.NopCloser(strings.NewReader("part"))
	close(errs) // a source with a single part has done all it has to do
	close(from)
	time.Sleep(10 * time.Millisecond)
	select {
	case err := <-told:
		t.Fatalf("told %v with a part on its way", err)
	case part := <-to:
		if text, err := io.ReadAll(part); string(text) != "part" || err != nil {
			t.Errorf("%q, %v", text, err)
		}
		if err := part.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, open := <-to; open {
		t.Error("there is another part")
	}
	if _, open := <-told; open {
		t.Error("there is an error")
	}
}

package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestAFrameComesBackAsItWasSent(t *testing.T) {
	data, err := Encode(Frame{ID: 7, Op: OpExec}, Exec{Ref: Ref{Pod: "p"}, Command: []string{"a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	r := bytes.NewReader(append(data, data...))
	for range 2 {
		f, err := Read(r)
		if err != nil || f.ID != 7 || f.Op != OpExec || string(f.Body) != `{"pod":"p","command":["a","b"]}` {
			t.Errorf("%+v, %v", f, err)
		}
	}
	if _, err := Read(r); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	if _, err := Read(bytes.NewReader(data[:len(data)-1])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut short: %v", err)
	}
}

func TestAnotherProtocolIsRecognised(t *testing.T) {
	if _, err := Read(strings.NewReader("GET / HTTP/1.1\r\n\r\n")); err == nil || !strings.Contains(err.Error(), "does not speak") {
		t.Errorf("%v", err)
	}
}

func TestTwoFullStreamsFitIntoAFrame(t *testing.T) {
	if _, err := Encode(Frame{ID: 1}, ExecResult{Stdout: make([]byte, 16<<20), Stderr: make([]byte, 16<<20)}); err != nil {
		t.Error(err)
	}
}

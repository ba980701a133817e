package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxFrame is the size in bytes that no frame may pass: two captured streams
// of 16 MiB in base64 and some room.
const MaxFrame = 48 << 20

// Frame is one message: 4 bytes of length (big endian), then this as JSON.
type Frame struct {
	ID   uint64          `json:"id,omitempty"` // 0: an event
	Op   string          `json:"op,omitempty"` // of a request or event
	Body json.RawMessage `json:"body,omitempty"`
	Err  *Error          `json:"err,omitempty"` // of an answer that failed
}

// Encode gives the bytes of a frame with v as its body (none when nil), ready
// to be written in one piece.
func Encode(f Frame, v any) ([]byte, error) {
	if v != nil {
		body, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("encode the body of %q: %w", f.Op, err)
		}
		f.Body = body
	}
	data, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encode a frame of %q: %w", f.Op, err)
	}
	if len(data) > MaxFrame {
		return nil, fmt.Errorf("a frame of %q has %d bytes, more than the %d allowed", f.Op, len(data), MaxFrame)
	}
	out := make([]byte, 4, 4+len(data))
	binary.BigEndian.PutUint32(out, uint32(len(data)))
	return append(out, data...), nil
}

// Read reads one frame. io.EOF says that the other side closed between two.
func Read(r io.Reader) (Frame, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return Frame{}, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > MaxFrame {
		return Frame{}, fmt.Errorf("a frame of %d bytes is announced, more than the %d allowed: the other side does not speak this protocol", n, MaxFrame)
	}
	// Memory is taken for what has come, not for what was announced.
	var data bytes.Buffer
	if got, err := io.CopyN(&data, r, int64(n)); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, fmt.Errorf("a frame was cut short after %d of %d bytes: %w", got, n, err)
	}
	var f Frame
	if err := json.Unmarshal(data.Bytes(), &f); err != nil {
		return Frame{}, fmt.Errorf("decode a frame: %w", err)
	}
	return f, nil
}

package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/troupe-run/troupe/backends"
)

// formatVersion grows when an older daemon could misread what a newer wrote.
const formatVersion = 1

// header is the first line of a record; the body follows it. The key is in it
// so that a file copied to another place is noticed.
type header struct {
	Version   int    `json:"version"`
	SHA256    string `json:"sha256"` // of the body
	Pod       string `json:"pod"`
	Container string `json:"container,omitempty"`
}

func encode(k backends.Key, body []byte) ([]byte, error) {
	line, err := json.Marshal(header{formatVersion, sum(body), k.Pod, k.Container})
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return append(append(line, '\n'), body...), nil
}

// decode gives the body of a whole record, or says what is wrong with it.
func decode(k backends.Key, content []byte) ([]byte, error) {
	if len(content) == 0 {
		return nil, errors.New("empty (power was lost before it reached the disk?)")
	}
	line, body, found := bytes.Cut(content, []byte{'\n'})
	var h header
	if err := json.Unmarshal(line, &h); !found || err != nil {
		return nil, errors.New("torn, or not a record of Troupe: no header line")
	}
	switch {
	case h.Version > formatVersion:
		return nil, fmt.Errorf("written by a newer Troupe (format %d, this one knows %d)", h.Version, formatVersion)
	case h.Version < 1:
		return nil, errors.New("not a record of Troupe: its header has no version")
	case h.SHA256 != sum(body):
		return nil, errors.New("torn: its checksum does not match")
	case h.Pod != k.Pod || h.Container != k.Container:
		return nil, fmt.Errorf("belongs to pod %q container %q", h.Pod, h.Container)
	}
	return body, nil
}

func sum(body []byte) string {
	s := sha256.Sum256(body)
	return hex.EncodeToString(s[:])
}

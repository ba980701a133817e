package images

import (
	"hash"
	"hash/crc64"
	"io"

	tarsplit "github.com/vbatts/tar-split/tar/storage"
)

// splitter keeps, in tar-split's format, what podman needs to make the same
// stream of a layer's files again: what stands between their contents as it is,
// and of each content the file's name, how much it is, and a checksum. The
// library's own reading of a stream does the same from a tar reader of its own;
// the inspector reads each header as it is, and one reading less is a tenth of
// a pull's work. A fuzz target holds the result against the stream.
type splitter struct {
	packer tarsplit.Packer
	sum    hash.Hash
	name   string
	size   int64
}

func newSplitter(to io.Writer) *splitter {
	return &splitter{packer: tarsplit.NewJSONPacker(to), sum: crc64.New(tarsplit.CRCTable)}
}

// between takes what is no file's content.
func (s *splitter) between(raw []byte) error {
	if len(raw) == 0 {
		return nil
	}
	_, err := s.packer.AddEntry(tarsplit.Entry{Type: tarsplit.SegmentType, Payload: raw})
	return err
}

// begin says whose content comes.
func (s *splitter) begin(name string) {
	s.name, s.size = name, 0
	s.sum.Reset()
}

func (s *splitter) content(p []byte) {
	s.size += int64(len(p))
	s.sum.Write(p)
}

// end says that it was all. It fails when the archive has had that name.
func (s *splitter) end() error {
	e := tarsplit.Entry{Type: tarsplit.FileType, Size: s.size}
	if s.size > 0 {
		e.Payload = s.sum.Sum(nil)
	}
	e.SetName(s.name) // it may not be UTF-8
	_, err := s.packer.AddEntry(e)
	return err
}

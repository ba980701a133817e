package seccomp

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
)

// A ready program travels as magic, key, checksum of what follows the magic
// but itself, program.
const magic = "troupe seccomp 1"

const (
	headSize   = len(magic) + 2*sha256.Size
	sizeofInsn = 8 // struct sock_filter
	// MaxSize is more than any ready program with its head has: the kernel
	// takes 4096 instructions (BPF_MAXINSNS).
	MaxSize = headSize + 4096*sizeofInsn
)

// ready programs by the key of the record they were made from. It is filled
// before there is more than one goroutine that makes filters.
var ready = map[Key][]byte{}

// Offer puts a ready program, as Capture gave it, where filters look for one.
func Offer(data []byte) error {
	key, program, err := unpack(data)
	if err == nil {
		ready[key] = program
	}
	return err
}

// Check says whether data is a whole ready program.
func Check(data []byte) error {
	_, _, err := unpack(data)
	return err
}

// Program is the program alone, struct sock_filter after struct sock_filter, as
// seccomp(2) takes it.
func Program(data []byte) ([]byte, error) {
	_, program, err := unpack(data)
	return program, err
}

func pack(key Key, program []byte) []byte {
	sum := sha256.Sum256(append(key[:], program...))
	return bytes.Join([][]byte{[]byte(magic), key[:], sum[:], program}, nil)
}

func unpack(data []byte) (key Key, program []byte, err error) {
	if !bytes.HasPrefix(data, []byte(magic)) {
		return key, nil, errors.New("seccomp: not a ready program")
	}
	if len(data) <= headSize || len(data) > MaxSize || (len(data)-headSize)%sizeofInsn != 0 {
		return key, nil, fmt.Errorf("seccomp: a ready program cannot have %d bytes", len(data))
	}
	copy(key[:], data[len(magic):])
	program = data[headSize:]
	if !bytes.Equal(data, pack(key, program)) {
		return key, nil, errors.New("seccomp: a ready program has been damaged")
	}
	return key, program, nil
}

// capturing is set while Capture runs.
var capturing *capture

type capture struct{ data []byte }

var errCaptured = errors.New("seccomp: the program was wanted, and not to load it")

// Capture runs load, which builds a filter, and gives the program of that
// filter for Offer. The filter is compiled but ExportBPF fails, so load has
// nothing that it could put into the kernel. It is for a process that makes no
// other filter meanwhile.
func Capture(load func() error) ([]byte, error) {
	capturing = &capture{}
	defer func() { capturing = nil }()
	err := load()
	if !errors.Is(err, errCaptured) {
		return nil, errors.Join(errors.New("seccomp: no program came of it"), err)
	}
	return capturing.data, nil
}

func (c *capture) take(key Key, f *ScmpFilter) error {
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("seccomp: pipe for the program: %w", err)
	}
	defer read.Close()
	compiled := make(chan error, 1)
	go func() {
		err := f.compile(write)
		compiled <- errors.Join(err, write.Close())
	}()
	var program bytes.Buffer
	_, err = program.ReadFrom(read)
	if err := errors.Join(<-compiled, err); err != nil {
		return err
	}
	data := pack(key, program.Bytes())
	if err := Check(data); err != nil {
		return err
	}
	c.data = data
	return errCaptured
}

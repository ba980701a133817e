package blackout

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// The part of the NBD protocol (doc/proto.md of NetworkBlockDevice/nbd) that
// QEMU needs of a disk: fixed newstyle negotiation with NBD_OPT_GO, simple
// replies, read, write with FUA, flush.
const (
	nbdMagic, optionMagic      uint64 = 0x4e42444d41474943, 0x49484156454f5054
	optionReply                uint64 = 0x3e889045565a9
	requestMagic, replyMagic   uint32 = 0x25609513, 0x67446698
	optionGo                   uint32 = 7
	replyAck, replyInfo        uint32 = 1, 3
	replyUnsupported           uint32 = 1<<31 + 1
	fixedNewstyle, noZeroes    uint16 = 1, 2
	hasFlags, hasFlush, hasFUA uint16 = 1, 4, 8
	commandFUA                 uint16 = 1
	read, write, leave, flush  uint16 = 0, 1, 2, 3
	ioError                    uint32 = 5
)

// serve lets one machine use the disk over a connection, until that ends.
func serve(conn net.Conn, d *Disk) error {
	s := &session{conn, bufio.NewReader(conn), d}
	if err := s.negotiate(); err != nil {
		return fmt.Errorf("NBD negotiation: %w", err)
	}
	for {
		err := s.command()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

type session struct {
	conn net.Conn
	in   *bufio.Reader
	disk *Disk
}

func (s *session) get(fields ...any) error {
	for _, f := range fields {
		if err := binary.Read(s.in, binary.BigEndian, f); err != nil {
			return err
		}
	}
	return nil
}

// put sends the fields as one packet.
func (s *session) put(fields ...any) error {
	var b []byte
	for _, f := range fields {
		var err error
		if b, err = binary.Append(b, binary.BigEndian, f); err != nil {
			return err
		}
	}
	_, err := s.conn.Write(b)
	return err
}

func (s *session) negotiate() error {
	if err := s.put(nbdMagic, optionMagic, fixedNewstyle|noZeroes); err != nil {
		return err
	}
	var clientFlags uint32
	if err := s.get(&clientFlags); err != nil {
		return err
	}
	for {
		var magic uint64
		var option, length uint32
		if err := s.get(&magic, &option, &length); err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, s.in, int64(length)); err != nil { // the name of the export: there is one
			return err
		}
		if option != optionGo {
			if err := s.put(optionReply, option, replyUnsupported, uint32(0)); err != nil {
				return err
			}
			continue
		}
		return s.put(
			optionReply, option, replyInfo, uint32(12), uint16(0), s.disk.Size(), hasFlags|hasFlush|hasFUA,
			optionReply, option, replyAck, uint32(0))
	}
}

func (s *session) command() error {
	var magic, length uint32
	var flags, kind uint16
	var handle uint64
	var at int64
	if err := s.get(&magic, &flags, &kind, &handle, &at, &length); err != nil {
		return err
	}
	if magic != requestMagic || length > 64<<20 {
		return fmt.Errorf("NBD request with magic %x and %d bytes", magic, length)
	}
	data := make([]byte, length)
	var err error
	switch kind {
	case read:
		err = s.disk.Read(data, at)
	case write:
		if _, err := io.ReadFull(s.in, data); err != nil {
			return err
		}
		err = s.disk.Write(data, at)
		if err == nil && flags&commandFUA != 0 {
			err = s.disk.Harden(at, int64(length))
		}
	case flush:
		err = s.disk.Flush()
	case leave:
		return io.EOF
	default:
		return fmt.Errorf("NBD command %d was not offered", kind)
	}
	if errors.Is(err, errOff) {
		return io.EOF // not even an answer
	}
	code := uint32(0)
	if err != nil {
		code = ioError
	}
	if kind != read || err != nil {
		data = nil
	}
	return s.put(replyMagic, code, handle, data)
}

package harness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Fuse is a FUSE file system of the lab's own with one file, "file", that can
// stop answering, as a network file system whose server died does: whoever
// asks it anything then sleeps in the kernel and cannot even be killed, because
// the request was taken and not answered.
//
// Nothing is cached, so each look at it asks. The program must not touch it
// itself while it hangs.
type Fuse struct {
	Dir string
	dev *os.File

	mu      sync.Mutex
	hangs   bool
	waiting [][]byte // requests taken and not answered
	ended   chan struct{}
}

// What the one file holds.
const fuseContent = "alive\n"

// Operations of the FUSE protocol (linux/fuse.h).
const (
	fuseLookup, fuseForget, fuseGetattr = 1, 2, 3
	fuseOpen, fuseRead, fuseStatfs      = 14, 15, 17
	fuseRelease, fuseFlush, fuseInit    = 18, 25, 26
	fuseOpendir, fuseReaddir            = 27, 28
	fuseReleasedir, fuseAccess          = 29, 34
	fuseInterrupt, fuseBatchForget      = 36, 42
)

// NewFuse mounts one in the lab; it ends with the lab.
func (l *Lab) NewFuse(name string) (*Fuse, error) {
	dir, err := l.Mkdir("fuse", name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening /dev/fuse (modprobe fuse): %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40755,user_id=0,group_id=0,allow_other", fd)
	if err := unix.Mount("lab", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("mounting a FUSE file system on %s: %w", dir, err)
	}
	// Only now: a poller takes no wake-ups from a device without a mount.
	f := &Fuse{Dir: dir, dev: os.NewFile(uintptr(fd), "fuse"), ended: make(chan struct{})}
	go f.serve()
	l.OnClose(f.Close)
	return f, nil
}

// Close aborts it and takes it away.
func (f *Fuse) Close() error {
	f.Abort()
	if err := unix.Unmount(f.Dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmounting %s: %w", f.Dir, err)
	}
	return nil
}

// Hang makes it stop answering. Requests are still taken.
func (f *Fuse) Hang() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hangs = true
}

// Waiting is how many requests were taken and not answered.
func (f *Fuse) Waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiting)
}

// Heal answers what waits, and everything from then on.
func (f *Fuse) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hangs = false
	for _, request := range f.waiting {
		f.answer(request)
	}
	f.waiting = nil
}

// Abort ends the server, as a kill of it does: who waits gets an error, and so
// does everybody after. It may be repeated.
func (f *Fuse) Abort() {
	f.dev.Close()
	<-f.ended
}

func (f *Fuse) serve() {
	defer close(f.ended)
	buf := make([]byte, 1<<20+4096) // more than max_write
	for {
		n, err := f.dev.Read(buf)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) {
			continue // the request was taken back
		}
		if err != nil {
			return // closed, or unmounted
		}
		f.take(buf[:n])
	}
}

func (f *Fuse) take(request []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch op := binary.LittleEndian.Uint32(request[4:]); {
	case op == fuseForget || op == fuseBatchForget || op == fuseInterrupt: // no answer is wanted
	case f.hangs:
		f.waiting = append(f.waiting, append([]byte(nil), request...))
	default:
		f.answer(request)
	}
}

// answer answers one request: a header of length, error and the request's
// number, then what the operation gives.
func (f *Fuse) answer(request []byte) {
	body, errno := fuseReply(request)
	out := binary.LittleEndian.AppendUint32(nil, uint32(16+len(body)))
	out = binary.LittleEndian.AppendUint32(out, uint32(-int32(errno)))
	out = append(out, request[8:16]...)
	_, _ = f.dev.Write(append(out, body...)) // who asked may have gone
}

func fuseReply(request []byte) (body []byte, errno unix.Errno) {
	u32, u64 := binary.LittleEndian.AppendUint32, binary.LittleEndian.AppendUint64
	node := binary.LittleEndian.Uint64(request[16:])
	in := request[40:]
	switch binary.LittleEndian.Uint32(request[4:]) {
	case fuseInit:
		for _, v := range []uint32{7, 31, 0, 0, 12 | 9<<16, 1 << 20, 1, 0, 0, 0} {
			body = u32(body, v)
		}
		return append(body, make([]byte, 24)...), 0
	case fuseLookup:
		if node != 1 || string(in) != "file\x00" {
			return nil, unix.ENOENT
		}
		body = append(u64(u64(nil, 2), 0), make([]byte, 24)...) // node, generation, nothing is to be kept
		return append(body, fuseAttr(2)...), 0
	case fuseGetattr:
		return append(make([]byte, 16), fuseAttr(node)...), 0
	case fuseOpen, fuseOpendir:
		return append(u64(nil, node), u32(u32(nil, 1), 0)...), 0 // direct I/O: a read asks
	case fuseRead:
		at := min(binary.LittleEndian.Uint64(in[8:]), uint64(len(fuseContent)))
		return []byte(fuseContent[at:]), 0
	case fuseStatfs:
		return append(make([]byte, 40), append(u32(u32(nil, 4096), 255), make([]byte, 32)...)...), 0
	case fuseReaddir, fuseRelease, fuseReleasedir, fuseFlush, fuseAccess:
		return nil, 0
	}
	return nil, unix.ENOSYS
}

// fuseAttr are the attributes of the root (node 1) or of the file.
func fuseAttr(node uint64) []byte {
	u32, u64 := binary.LittleEndian.AppendUint32, binary.LittleEndian.AppendUint64
	mode, size := uint32(unix.S_IFDIR|0o755), uint64(0)
	if node != 1 {
		mode, size = unix.S_IFREG|0o644, uint64(len(fuseContent))
	}
	b := u64(u64(u64(nil, node), size), 1)
	b = append(b, make([]byte, 36)...) // times
	for _, v := range []uint32{mode, 1, 0, 0, 0, 4096, 0} {
		b = u32(b, v)
	}
	return b
}

//go:build linux && cgo

package main

// #include "keeper.h"
import "C"

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/troupe-run/troupe/backends/failpoint"
	"golang.org/x/sys/unix"
)

// keeperEnv names the socket to the keeper (keeper.c), which started us.
const keeperEnv = "TROUPE_KEEPER_FD"

// The places of an entry's descriptors at the keeper.
const (
	slotStdout = iota // of a terminal: its master
	slotStderr
	slotStdin // the writing end
	slotLog
	slotPidfd
	slotBufferIn // of a terminal: the pipe between it and the spool
	slotBufferOut
	slots = C.KEEPER_SLOTS
)

const allSlots = 1<<slots - 1

// The entry of the monitor itself; no container has that name.
const (
	ownEntry     = "."
	slotLock     = slotStdout
	slotListener = slotStderr
)

// kept is what the keeper gives back to a new monitor.
type kept struct {
	name  string
	pid   int
	files [slots]*os.File // nil: not there
	end   *keptEnd        // nil: the process was not reaped by the keeper
}

// keptEnd is how a process ended that the keeper has reaped.
type keptEnd struct {
	status exitStatus
	at     time.Time
}

// take gives a descriptor away.
func (k *kept) take(slot int) *os.File {
	f := k.files[slot]
	k.files[slot] = nil
	return f
}

func (k *kept) close() { closeFiles(k.files[:]) }

// keeper is the monitor's side of the socket. When its process dies another is
// started, and gets all again.
type keeper struct {
	log     *slog.Logger
	replace func() // starts another; set before serving

	ask sync.Mutex // one question at a time

	mu      sync.Mutex
	conn    *net.UnixConn // nil: there is none at the moment
	seq     uint32
	answers chan answer // to the question that is asked
	served  bool
}

// answer is a message of the keeper.
type answer struct {
	message C.struct_keeper_message
	fds     []int
}

var errNoKeeper = errors.New("the keeper has died and another was not started yet")

// joinKeeper connects to the keeper that started this process.
func joinKeeper(log *slog.Logger) (*keeper, error) {
	fd, err := strconv.Atoi(os.Getenv(keeperEnv))
	if err != nil {
		return nil, fmt.Errorf("%s is %q: troupe-monitor has to be started with a flag as its first argument", keeperEnv, os.Getenv(keeperEnv))
	}
	os.Unsetenv(keeperEnv)
	k := &keeper{log: log}
	if err := k.use(fd); err != nil {
		return nil, err
	}
	return k, nil
}

// use makes the descriptor the connection to the keeper.
func (k *keeper) use(fd int) error {
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "keeper")
	defer f.Close()
	nc, err := net.FileConn(f)
	if err != nil {
		return fmt.Errorf("the socket to the keeper: %w", err)
	}
	conn := nc.(*net.UnixConn)
	k.mu.Lock()
	k.conn, k.answers = conn, make(chan answer, 16)
	answers := k.answers
	k.mu.Unlock()
	go k.read(conn, answers)
	return nil
}

// read hands on what the keeper says, until it dies.
func (k *keeper) read(conn *net.UnixConn, answers chan<- answer) {
	defer close(answers)
	for {
		var r answer
		buf := unsafe.Slice((*byte)(unsafe.Pointer(&r.message)), unsafe.Sizeof(r.message))
		oob := make([]byte, unix.CmsgSpace(4*slots))
		n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
		if err != nil || n != len(buf) {
			k.lost(conn)
			return
		}
		r.fds = descriptorsIn(oob[:oobn])
		answers <- r
	}
}

// lost is the keeper's death. What it held, we hold as well; from now on there
// is nobody to hold it if we die, so another is started.
func (k *keeper) lost(conn *net.UnixConn) {
	k.mu.Lock()
	if k.conn == conn {
		k.conn = nil
	}
	served := k.served
	k.mu.Unlock()
	conn.Close()
	if served {
		failpoint.Hit("keep/lost")
		go k.replace()
	}
}

func (k *keeper) send(m *C.struct_keeper_message, fds ...int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	k.mu.Lock()
	conn := k.conn
	k.mu.Unlock()
	if conn == nil {
		return errNoKeeper
	}
	buf := unsafe.Slice((*byte)(unsafe.Pointer(m)), unsafe.Sizeof(*m))
	if _, _, err := conn.WriteMsgUnix(buf, oob, nil); err != nil {
		return fmt.Errorf("tell the keeper: %w", err)
	}
	return nil
}

func toKeeper(op C.uint32_t, name string) *C.struct_keeper_message {
	m := &C.struct_keeper_message{op: op, pid: -1}
	for i := 0; i < len(name) && i < len(m.name)-1; i++ {
		m.name[i] = C.char(name[i])
	}
	return m
}

// slot is a descriptor for the keeper; fd -1 takes what is there away.
type slot struct{ at, fd int }

// set changes an entry: pid, unless it is negative, and the named slots. The
// caller holds the lock under which the descriptors are closed, so the keeper
// never gets another's, and never an older state after a newer one. It returns
// when the message is in the socket, where our death does not reach it. An
// entry without descriptors is dropped.
func (k *keeper) set(name string, pid int, change ...slot) {
	m := toKeeper(C.KEEPER_SET, name)
	m.pid = C.int32_t(pid)
	var fds []int
	for at := range slots {
		for _, s := range change {
			if s.at != at {
				continue
			}
			m.slots |= 1 << at
			if s.fd >= 0 {
				m.fds |= 1 << at
				fds = append(fds, s.fd)
			}
		}
	}
	if err := k.send(m, fds...); err != nil && !errors.Is(err, errNoKeeper) && !errors.Is(err, syscall.EPIPE) {
		k.log.Error("the keeper was not told: what it should hold is lost if the monitor dies", "name", name, "err", err)
	}
}

// drop takes back all of an entry.
func (k *keeper) drop(name string) {
	m := toKeeper(C.KEEPER_SET, name)
	m.slots = allSlots
	_ = k.send(m) // one that is gone has forgotten it
}

// question sends a request and collects the answers up to the last.
func (k *keeper) question(m *C.struct_keeper_message, last C.uint32_t) ([]answer, error) {
	k.ask.Lock()
	defer k.ask.Unlock()
	k.mu.Lock()
	k.seq++
	m.seq = C.uint32_t(k.seq)
	answers := k.answers
	k.mu.Unlock()
	if err := k.send(m); err != nil {
		return nil, err
	}
	var all []answer
	for r := range answers {
		if r.message.seq != m.seq {
			r.close()
			continue
		}
		all = append(all, r)
		if r.message.op == last {
			return all, nil
		}
	}
	for _, r := range all {
		r.close()
	}
	return nil, errNoKeeper
}

func (r *answer) close() {
	for _, fd := range r.fds {
		_ = unix.Close(fd)
	}
	r.fds = nil
}

// list gives all that the keeper holds.
func (k *keeper) list() (map[string]*kept, error) {
	answers, err := k.question(toKeeper(C.KEEPER_LIST, ""), C.KEEPER_END)
	if err != nil {
		return nil, err
	}
	all := map[string]*kept{}
	for _, r := range answers[:len(answers)-1] {
		e := r.kept()
		all[e.name] = e
	}
	return all, nil
}

func (r *answer) kept() *kept {
	e := &kept{name: C.GoString(&r.message.name[0]), pid: int(r.message.pid), end: r.end()}
	for at := range slots {
		if r.message.fds&(1<<at) == 0 || len(r.fds) == 0 {
			continue
		}
		// The last monitor made it non-blocking; Go would take it for one that
		// its own poller is to watch.
		_ = unix.SetNonblock(r.fds[0], false)
		e.files[at], r.fds = os.NewFile(uintptr(r.fds[0]), "kept"), r.fds[1:]
	}
	r.close()
	return e
}

// descriptorsIn are those that came with a message.
func descriptorsIn(oob []byte) (all []int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			all = append(all, fds...)
		}
	}
	return all
}

func (r *answer) end() *keptEnd {
	if r.message.known == 0 {
		return nil
	}
	return &keptEnd{status: decode(syscall.WaitStatus(r.message.status)), at: time.Unix(0, int64(r.message.at)).UTC()}
}

// status asks how the process of an entry ended; nil: the keeper does not know,
// because it still runs or was never its child.
func (k *keeper) status(name string) *keptEnd {
	answers, err := k.question(toKeeper(C.KEEPER_STATUS, name), C.KEEPER_ENTRY)
	if err != nil {
		return nil
	}
	return answers[0].end()
}

// serving says that this monitor is up: it is started again when it dies.
func (k *keeper) serving() {
	k.mu.Lock()
	k.served = true
	gone := k.conn == nil
	k.mu.Unlock()
	if gone {
		go k.replace()
		return
	}
	_ = k.send(toKeeper(C.KEEPER_SERVING, "")) // see read
}

// ending says that this monitor's end is the end of all.
func (k *keeper) ending() {
	k.mu.Lock()
	k.served = false
	k.mu.Unlock()
	_ = k.send(toKeeper(C.KEEPER_ENDING, "")) // one that is gone starts nobody
}

// upgrade says that after our end the program is started that is at the path
// then: it must be there now.
func (k *keeper) upgrade() error {
	answers, err := k.question(toKeeper(C.KEEPER_UPGRADE, ""), C.KEEPER_END)
	if err != nil {
		return err
	}
	if errno := syscall.Errno(answers[0].message.status); errno != 0 {
		return fmt.Errorf("the program to be started: %w", errno)
	}
	return nil
}

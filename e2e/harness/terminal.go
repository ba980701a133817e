package harness

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Terminal is a pseudo-terminal of a size: what a person sits before.
func Terminal(columns, rows uint16) (person, program *os.File, err error) {
	person, err = os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = person.Close()
		}
	}()
	raw, err := person.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var number int
	var ioctl error
	err = raw.Control(func(fd uintptr) {
		if ioctl = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); ioctl == nil {
			number, ioctl = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err == nil {
		err = ioctl
	}
	if err != nil {
		return nil, nil, err
	}
	if err = Resize(person, columns, rows); err != nil {
		return nil, nil, err
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	return person, program, err
}

// Resize changes the size of a terminal.
func Resize(terminal *os.File, columns, rows uint16) error {
	raw, err := terminal.SyscallConn()
	if err != nil {
		return err
	}
	var ioctl error
	if err := raw.Control(func(fd uintptr) {
		ioctl = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	}); err != nil {
		return err
	}
	return ioctl
}

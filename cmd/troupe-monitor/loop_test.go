//go:build linux && cgo

package main

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watchedPipe tells on the channel each time the loop calls for it.
func watchedPipe(t *testing.T, l *loop, do func()) (in *os.File, called chan bool, drop func()) {
	t.Helper()
	out, in, err := pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close(); in.Close() })
	fd := int(out.Fd())
	called = make(chan bool, 100)
	token, err := l.add(fd, unix.EPOLLIN, func(uint32, []byte) {
		do()
		if _, err := unix.Read(fd, make([]byte, 1)); err != nil {
			t.Error(err)
		}
		called <- true
	})
	if err != nil {
		t.Fatal(err)
	}
	return in, called, func() { l.drop(fd, token) }
}

func write(t *testing.T, to *os.File) {
	t.Helper()
	if _, err := to.WriteString("x"); err != nil {
		t.Fatal(err)
	}
}

func wasCalled(t *testing.T, called chan bool, who string) {
	t.Helper()
	select {
	case <-called:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s was not called", who)
	}
}

func TestAHandlerThatHangsKeepsNobodyElseWaiting(t *testing.T) {
	l, err := newLoop(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	hang, again := make(chan bool), make(chan bool)
	one, oneCalled, _ := watchedPipe(t, l, func() { <-hang })
	two, twoCalled, dropTwo := watchedPipe(t, l, func() { <-again })
	three, threeCalled, _ := watchedPipe(t, l, func() {})
	for _, f := range []*os.File{one, two, three} { // all in one batch
		write(t, f)
	}
	go l.run()
	wasCalled(t, threeCalled, "the third, beside two that hang,")
	for range 3 {
		write(t, three)
		wasCalled(t, threeCalled, "the third again")
	}

	dropTwo() // while it hangs: it is not watched again
	write(t, two)
	write(t, one)
	close(again)
	wasCalled(t, twoCalled, "the second")
	close(hang)
	wasCalled(t, oneCalled, "the first")
	wasCalled(t, oneCalled, "the first, for what came meanwhile,")
	write(t, three)
	wasCalled(t, threeCalled, "the third at the end")
	if len(twoCalled) > 0 {
		t.Error("the second was called after its drop")
	}
}

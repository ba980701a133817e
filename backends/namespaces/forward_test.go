package namespaces_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/thread"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// podNet is a network namespace of a pod whose loopback is up.
func podNet(t *testing.T) (f backends.Forwarder, netns string) {
	t.Helper()
	b, _ := backend(t)
	pod := strings.Repeat("f", 64)
	n, err := b.Pin(t.Context(), backends.NamespaceRequest{Pod: pod, Network: true, IPC: true, UTS: true})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("nsenter", "--net="+n.Network, "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return b, n.Network
}

// listenIn listens inside a network namespace.
func listenIn(t *testing.T, netns, address string) (l net.Listener, port int32) {
	t.Helper()
	var err error
	thread.ThrownAway(func() {
		var f *os.File
		if f, err = os.Open(netns); err != nil {
			return
		}
		defer f.Close()
		if err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err == nil {
			l, err = net.Listen("tcp", address)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, int32(l.Addr().(*net.TCPAddr).Port)
}

// duplex is a client's stream.
type duplex struct {
	io.Reader
	io.Writer
}

func (duplex) Close() error { return nil }

// serve sends back what a connection sent, when that is all.
func serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			data, _ := io.ReadAll(c)
			fmt.Fprintf(c, "got %s", data)
			c.Close()
		}()
	}
}

func TestForwardReachesTheLoopbackOfThePodAndPassesEndsOn(t *testing.T) {
	f, netns := podNet(t)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, port := listenIn(t, netns, address)
		go serve(l)
		var answer strings.Builder
		err := f.Forward(t.Context(), backends.ForwardRequest{
			Pod: "p", NetNS: netns, Port: port, Stream: duplex{strings.NewReader("hello"), &answer},
		})
		if err != nil || answer.String() != "got hello" {
			t.Errorf("%s: %q, %v", address, answer.String(), err)
		}
	}
}

func TestForwardToAHostNetworkPodReachesTheNode(t *testing.T) {
	b, _ := backend(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go serve(l)
	var answer strings.Builder
	err = b.Forward(t.Context(), backends.ForwardRequest{
		Pod: "p", Port: int32(l.Addr().(*net.TCPAddr).Port), Stream: duplex{strings.NewReader("hi"), &answer},
	})
	if err != nil || answer.String() != "got hi" {
		t.Errorf("%q, %v", answer.String(), err)
	}
}

func TestForwardSaysThatNobodyListens(t *testing.T) {
	f, netns := podNet(t)
	err := f.Forward(t.Context(), backends.ForwardRequest{Pod: "p", NetNS: netns, Port: 9, Stream: duplex{strings.NewReader(""), io.Discard}})
	if messages.KindOf(err) != messages.Unavailable || !strings.Contains(err.Error(), "127.0.0.1:9") || !strings.Contains(err.Error(), "[::1]:9") {
		t.Errorf("%v", err)
	}
	err = f.Forward(t.Context(), backends.ForwardRequest{Pod: "p", NetNS: netns + "-gone", Port: 9})
	if messages.KindOf(err) != messages.Precondition {
		t.Errorf("without a namespace: %v", err)
	}
}

func TestForwardEndsWithItsClientOrItsContext(t *testing.T) {
	f, netns := podNet(t)
	l, port := listenIn(t, netns, "127.0.0.1:0")
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	for _, end := range []func(){cancel, func() { close(gone) }} {
		ended := make(chan error, 1)
		in, _ := io.Pipe()
		go func() {
			c := ctx
			if c.Err() != nil {
				c = t.Context()
			}
			ended <- f.Forward(c, backends.ForwardRequest{Pod: "p", NetNS: netns, Port: port, Stream: duplex{in, io.Discard}, Gone: gone})
		}()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		end()
		select {
		case err := <-ended:
			if messages.KindOf(err) != messages.Canceled {
				t.Errorf("%v", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("it goes on")
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("the pod's connection is open")
		}
		conn.Close()
	}
}

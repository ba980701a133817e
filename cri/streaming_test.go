package cri

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/messages"
	"golang.org/x/net/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// streaming is a gateway with a running container and pod, and its streaming server.
func streaming(t *testing.T, change ...func(*Config)) *gateway {
	t.Helper()
	g := newGateway(t, change...)
	g.view.pods = append(g.view.pods, samplePod("a", messages.PodReady, nil), samplePod("b", messages.PodStopping, nil))
	g.view.containers = append(g.view.containers, sampleContainer("c", "a", messages.ContainerRunning, nil), sampleContainer("d", "a", messages.ContainerCreated, nil))
	if err := g.server.ServeStreams(); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *gateway) execURL(t *testing.T, r *runtime.ExecRequest) string {
	t.Helper()
	r.ContainerId, r.Cmd = "c", []string{"sh"}
	answer, err := g.rpc.Exec(within(t), r)
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetUrl()
}

// open opens a session as a WebSocket client of today does.
func open(t *testing.T, address string) *websocket.Conn {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.Scheme = "ws"
	c, err := websocket.NewConfig(u.String(), "http://localhost")
	if err != nil {
		t.Fatal(err)
	}
	c.Protocol = []string{protocolV5}
	ws, err := websocket.DialConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	if err := ws.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return ws
}

// receive is the next message with content on a channel.
func receive(t *testing.T, ws *websocket.Conn, channel byte) string {
	t.Helper()
	for {
		var data []byte
		if err := websocket.Message.Receive(ws, &data); err != nil {
			t.Fatal(err)
		}
		if len(data) > 1 && data[0] == channel {
			return string(data[1:])
		}
	}
}

func TestASessionIsWhatItsRPCAskedFor(t *testing.T) {
	g := streaming(t)
	g.answer = func(_ context.Context, request any) (any, error) {
		m := request.(messages.ExecStream)
		size := <-m.Streams.Resize
		in, err := io.ReadAll(m.Streams.Stdin)
		fmt.Fprintf(m.Streams.Stdout, "%s of %s/%s %q tty %v, %dx%d, stderr %v", in, m.Pod[:1], m.Container[:1], m.Command, m.TTY, size.Width, size.Height, m.Streams.Stderr != nil)
		return int32(7), err
	}
	ws := open(t, g.execURL(t, &runtime.ExecRequest{Stdin: true, Stdout: true, Tty: true}))
	for _, message := range [][]byte{[]byte("\x04{\"Width\":80,\"Height\":25}"), []byte("\x00input"), {255, 0}} {
		if err := websocket.Message.Send(ws, message); err != nil {
			t.Fatal(err)
		}
	}
	if out := receive(t, ws, channelStdout); out != `input of a/c ["sh"] tty true, 80x25, stderr false` {
		t.Errorf("stdout: %s", out)
	}
	end := receive(t, ws, channelError)
	for _, part := range []string{`"status":"Failure"`, `"reason":"NonZeroExitCode"`, `"causes":[{"reason":"ExitCode","message":"7"}]`} {
		if !strings.Contains(end, part) {
			t.Errorf("its end is told as %s", end)
		}
	}
}

func TestAClientThatGoesEndsItsSession(t *testing.T) {
	g := streaming(t)
	begun, over := make(chan messages.ExecStream, 1), make(chan error, 1)
	g.answer = func(ctx context.Context, request any) (any, error) {
		begun <- request.(messages.ExecStream)
		<-ctx.Done()
		over <- ctx.Err()
		return nil, ctx.Err()
	}
	ws := open(t, g.execURL(t, &runtime.ExecRequest{Stdout: true}))
	m := <-begun
	ws.Close()
	select {
	case <-m.Streams.Gone:
	case <-time.After(5 * time.Second):
		t.Error("the backend is not told")
	}
	select {
	case <-over:
	case <-time.After(5 * time.Second):
		t.Error("the node is still asked")
	}
}

func TestSessionsEndWithTheServer(t *testing.T) {
	g := streaming(t)
	begun := make(chan struct{})
	g.answer = func(ctx context.Context, _ any) (any, error) {
		close(begun)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ws := open(t, g.execURL(t, &runtime.ExecRequest{Stdout: true}))
	<-begun
	if err := g.server.GracefulStop(within(t)); err != nil {
		t.Error(err)
	}
	if err := websocket.Message.Receive(ws, new([]byte)); err == nil { // the empty one at the beginning
		err = websocket.Message.Receive(ws, new([]byte))
		if err == nil {
			t.Error("the session goes on")
		}
	}
}

func TestTokensAreGoodOnceForOneKindAndAWhile(t *testing.T) {
	now := time.Unix(1000, 0)
	ts := newTokens(time.Minute)
	ts.now = func() time.Time { return now }
	request := &runtime.ExecRequest{ContainerId: "x"}
	token, err := ts.issue(request)
	if err != nil || len(token) != 32 {
		t.Fatalf("%q, %v", token, err)
	}
	if got, ok := ts.redeem(token); !ok || got != request {
		t.Errorf("%v, %v", got, ok)
	}
	if _, ok := ts.redeem(token); ok {
		t.Error("it is good twice")
	}
	late, _ := ts.issue(request)
	now = now.Add(time.Minute + time.Second)
	if _, ok := ts.redeem(late); ok {
		t.Error("it is good after its time")
	}
	for range maxTokens {
		if _, err := ts.issue(request); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ts.issue(request); messages.KindOf(err) != messages.Busy {
		t.Errorf("one too many: %v", err)
	}
	now = now.Add(time.Hour)
	if _, err := ts.issue(request); err != nil {
		t.Errorf("those nobody came for make room: %v", err)
	}

	g := streaming(t)
	address := strings.Replace(g.execURL(t, &runtime.ExecRequest{Stdout: true}), "/exec/", "/attach/", 1)
	answer, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusNotFound {
		t.Errorf("a token of another kind: %s", answer.Status)
	}
}

func TestTooManySessionsAreRefused(t *testing.T) {
	g := streaming(t, func(c *Config) { c.Streaming.MaxSessions = 1 })
	begun := make(chan struct{}, 1)
	g.answer = func(ctx context.Context, _ any) (any, error) {
		begun <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	open(t, g.execURL(t, &runtime.ExecRequest{Stdout: true}))
	<-begun
	answer, err := http.Get(g.execURL(t, &runtime.ExecRequest{Stdout: true}))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusTooManyRequests || answer.Header.Get("Retry-After") == "" {
		t.Errorf("%s", answer.Status)
	}
}

func TestWhatCannotBeServedIsRefusedBeforeAURLIsGiven(t *testing.T) {
	g := streaming(t)
	for name, c := range map[string]struct {
		call func() error
		want codes.Code
	}{
		"no stream": {func() error {
			_, err := g.rpc.Exec(within(t), &runtime.ExecRequest{ContainerId: "c", Cmd: []string{"sh"}})
			return err
		}, codes.InvalidArgument},
		"no command": {func() error {
			_, err := g.rpc.Exec(within(t), &runtime.ExecRequest{ContainerId: "c", Stdout: true})
			return err
		}, codes.InvalidArgument},
		"tty with stderr": {func() error {
			_, err := g.rpc.Attach(within(t), &runtime.AttachRequest{ContainerId: "c", Stderr: true, Tty: true})
			return err
		}, codes.InvalidArgument},
		"not running": {func() error {
			_, err := g.rpc.Attach(within(t), &runtime.AttachRequest{ContainerId: "d", Stdout: true})
			return err
		}, codes.FailedPrecondition},
		"unknown": {func() error {
			_, err := g.rpc.Exec(within(t), &runtime.ExecRequest{ContainerId: "e", Cmd: []string{"sh"}, Stdout: true})
			return err
		}, codes.NotFound},
		"port 0": {func() error {
			_, err := g.rpc.PortForward(within(t), &runtime.PortForwardRequest{PodSandboxId: "a", Port: []int32{0}})
			return err
		}, codes.InvalidArgument},
		"pod not ready": {func() error {
			_, err := g.rpc.PortForward(within(t), &runtime.PortForwardRequest{PodSandboxId: "b"})
			return err
		}, codes.FailedPrecondition},
	} {
		if err := c.call(); status.Code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := g.count(); n != 0 {
		t.Errorf("the node was asked %d times", n)
	}
}

func TestAHundredSessionsLeaveNoGoroutine(t *testing.T) {
	g := streaming(t)
	g.answer = func(ctx context.Context, request any) (any, error) {
		m := request.(messages.ExecStream)
		if m.Streams.Stdin == nil {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		_, _ = io.Copy(m.Streams.Stdout, m.Streams.Stdin)
		return int32(0), nil
	}
	one := func(i int) {
		ws := open(t, g.execURL(t, &runtime.ExecRequest{Stdin: i%2 == 0, Stdout: true}))
		if i%2 == 0 {
			_ = websocket.Message.Send(ws, []byte("\x00x"))
			receive(t, ws, channelStdout)
			_ = websocket.Message.Send(ws, []byte{255, 0})
			receive(t, ws, channelError)
		}
		ws.Close()
	}
	one(0)
	settled := func() int {
		n := goruntime.NumGoroutine()
		for range 100 {
			time.Sleep(20 * time.Millisecond)
			if n = goruntime.NumGoroutine(); n <= 30 {
				break
			}
		}
		return n
	}
	before := settled()
	for i := range 100 {
		one(i)
	}
	for end := time.Now().Add(10 * time.Second); goruntime.NumGoroutine() > before+3; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, before %d:\n%s", goruntime.NumGoroutine(), before, buf[:goruntime.Stack(buf, true)])
		}
	}
	if left := len(g.server.streams.clients.list()); left > 1 {
		t.Errorf("%d connections are left", left)
	}
}

// An upgrade whose client opens no streams must not keep the connection.
func TestAClientThatSaysNothingMoreIsGivenUp(t *testing.T) {
	g := streaming(t, func(c *Config) { c.Streaming.OpenTimeout = 100 * time.Millisecond })
	u, err := url.Parse(g.execURL(t, &runtime.ExecRequest{Stdout: true}))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n", u.Path)
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 12)
	if _, err := io.ReadFull(conn, head); err != nil || string(head) != "HTTP/1.1 101" {
		t.Fatalf("%q, %v", head, err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("the connection is kept: %v", err)
	}
}

func TestWrongTLSFilesAreAnErrorAtStart(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, files := range []*TLSFiles{{}, {Cert: "/no/such", Key: "/no/such"}, {Cert: empty, Key: empty}} {
		g := newGateway(t, func(c *Config) { c.Streaming.TLS = files })
		if err := g.server.ServeStreams(); err == nil {
			t.Errorf("%s, %s: no error", files.Cert, files.Key)
		}
	}
	g := newGateway(t, func(c *Config) { c.Streaming.Address = "192.0.2.1:1" })
	if err := g.server.ServeStreams(); err == nil || !strings.Contains(err.Error(), "stream_address") {
		t.Errorf("an address that is not ours: %v", err)
	}
}

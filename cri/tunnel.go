package cri

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"golang.org/x/net/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
)

// Port forwarding over WebSocket is SPDY in a WebSocket (kubectl and crictl since
// Kubernetes 1.30, KEP-4006): the client asks for the subprotocol
// "SPDY/3.1+portforward.k8s.io" and then speaks SPDY in binary messages. The
// kubelet undoes that itself; a client that comes to the runtime does not.
const tunnelPrefix = "SPDY/3.1+"

// tunneled serves h to a client in a tunnel, as if it had come without.
func tunneled(w http.ResponseWriter, r *http.Request, h func(http.ResponseWriter, *http.Request)) {
	server := websocket.Server{
		Handshake: func(c *websocket.Config, _ *http.Request) error {
			for _, p := range c.Protocol {
				if p == tunnelPrefix+portforward.ProtocolV1Name {
					c.Protocol = []string{p}
					return nil
				}
			}
			return fmt.Errorf("none of the subprotocols %q is served", c.Protocol)
		},
		Handler: func(ws *websocket.Conn) {
			ws.PayloadType = websocket.BinaryFrame
			inner := r.Clone(r.Context())
			inner.Header = http.Header{}
			inner.Header.Set("Connection", "Upgrade")
			inner.Header.Set("Upgrade", "SPDY/3.1")
			inner.Header.Set("X-Stream-Protocol-Version", strings.TrimPrefix(ws.Config().Protocol[0], tunnelPrefix))
			h(&tunnelWriter{header: http.Header{}, conn: tunnelConn{ws, r.RemoteAddr}}, inner)
		},
	}
	server.ServeHTTP(w, r)
}

// tunnelWriter is what a SPDY server upgrades: its answer is not sent, because
// the WebSocket's has been.
type tunnelWriter struct {
	header http.Header
	conn   net.Conn
	status int
}

// Header implements http.ResponseWriter.
func (t *tunnelWriter) Header() http.Header { return t.header }

// WriteHeader implements http.ResponseWriter.
func (t *tunnelWriter) WriteHeader(status int) { t.status = status }

// Write implements http.ResponseWriter: there is no body in an upgrade.
func (t *tunnelWriter) Write([]byte) (int, error) {
	return 0, errors.New("the tunnel is up: nothing but its own protocol can be sent")
}

// Hijack implements http.Hijacker.
func (t *tunnelWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if t.status != http.StatusSwitchingProtocols {
		return nil, nil, fmt.Errorf("no protocol was agreed on (status %d)", t.status)
	}
	return t.conn, bufio.NewReadWriter(bufio.NewReader(t.conn), bufio.NewWriter(t.conn)), nil
}

// tunnelConn has an address to be logged; a WebSocket's own may be empty.
type tunnelConn struct {
	*websocket.Conn
	remote string
}

// RemoteAddr implements net.Conn.
func (t tunnelConn) RemoteAddr() net.Addr { return tunnelAddr(t.remote) }

// LocalAddr implements net.Conn.
func (t tunnelConn) LocalAddr() net.Addr { return tunnelAddr("tunnel") }

type tunnelAddr string

// Network implements net.Addr.
func (tunnelAddr) Network() string { return "tcp" }

// String implements net.Addr.
func (a tunnelAddr) String() string { return string(a) }

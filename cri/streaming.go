package cri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"time"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// Streaming says where exec, attach and port-forward sessions are served.
// Zero values are the defaults.
type Streaming struct {
	Address     string // host:port; 127.0.0.1:0
	TLS         *TLSFiles
	IdleTimeout time.Duration // of a session in which nothing is sent; 4 h
	TokenLife   time.Duration // from the RPC to the connection; 1 min
	OpenTimeout time.Duration // how long a SPDY client may take to open its streams; 30 s
	MaxSessions int           // at once; 1024
}

func (c Streaming) withDefaults() Streaming {
	if c.Address == "" {
		c.Address = "127.0.0.1:0"
	}
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = 4 * time.Hour
	}
	if c.TokenLife <= 0 {
		c.TokenLife = time.Minute
	}
	if c.OpenTimeout <= 0 {
		c.OpenTimeout = remotecommand.DefaultStreamCreationTimeout
	}
	if c.MaxSessions <= 0 {
		c.MaxSessions = 1024
	}
	return c
}

// streams is the HTTP server of sessions. An RPC gets a URL that is good for one
// connection; what may be done there was fixed by the RPC. The protocols, SPDY
// and WebSocket, are cri-streaming's; what is our own is the token, the knowledge
// of when a client has gone, and the newer WebSocket protocols (websocket.go).
type streams struct {
	config  Streaming
	node    Node
	log     *slog.Logger
	tokens  *tokens
	clients clients
	places  chan struct{} // one for each session
	base    url.URL       // of what is handed out; no host: not serving
	http    *http.Server
}

func newStreams(c Streaming, node Node, log *slog.Logger) *streams {
	c = c.withDefaults()
	s := &streams{config: c, node: node, log: log, tokens: newTokens(c.TokenLife), places: make(chan struct{}, c.MaxSessions)}
	mux := http.NewServeMux()
	mux.HandleFunc("/{kind}/{token}", s.serve)
	s.http = &http.Server{
		Handler: mux, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		ConnContext: withClient, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		TLSNextProto: noHTTP2(), // a session takes the connection over, which HTTP/2 cannot
	}
	return s
}

// ServeStreams serves sessions until GracefulStop. Until it has been called,
// Exec, Attach and PortForward answer Unavailable.
func (s *Server) ServeStreams() (err error) {
	st := s.streams
	l, err := net.Listen("tcp", st.config.Address)
	if err != nil {
		return fmt.Errorf("streaming server: %w; set stream_address and stream_port in [crio.api]", err)
	}
	base := url.URL{Scheme: "http", Host: l.Addr().String()}
	l = st.clients.listen(l)
	if st.config.TLS != nil {
		if l, err = st.config.TLS.listen(l, s.log); err != nil {
			return fmt.Errorf("streaming server: %w", err)
		}
		base.Scheme = "https"
	}
	st.base = base
	s.log.Info("streaming server", "url", base.String())
	go st.clients.watch(s.closing)
	go func() {
		if err := st.http.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the streaming server has ended: exec, attach and port-forward do not work any more; restart troupe", "err", err)
		}
	}()
	return nil
}

// stop cuts off every session.
func (s *streams) stop() {
	_ = s.http.Close() // closes the listener and what is no session yet
	s.clients.cut()
}

// url makes the one-time address of a session.
func (s *streams) url(kind string, request any) (string, error) {
	if s.base.Host == "" {
		return "", messages.Errorf(messages.Unavailable, "the streaming server is not up yet")
	}
	token, err := s.tokens.issue(request)
	if err != nil {
		return "", err
	}
	u := s.base
	u.Path = path.Join("/", kind, token)
	return u.String(), nil
}

// serve takes a token in and runs its session to its end.
func (s *streams) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		http.Error(w, "use GET or POST", http.StatusMethodNotAllowed)
		return
	}
	request, ok := s.tokens.redeem(r.PathValue("token"))
	if !ok || kindOf(request) != r.PathValue("kind") {
		http.NotFound(w, r)
		return
	}
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	default:
		w.Header().Set("Retry-After", "10")
		http.Error(w, fmt.Sprintf("%d sessions are under way, which is the limit", cap(s.places)), http.StatusTooManyRequests)
		return
	}
	ctx, trace := withTrace(r.Context())
	r = r.WithContext(ctx)
	began := time.Now()
	taken := &takeover{ResponseWriter: w}
	defer taken.close()
	session := &session{streams: s, request: r, trace: trace}
	switch m := request.(type) {
	case *runtime.ExecRequest:
		session.about = []any{"container", m.GetContainerId()}
		session.exec(taken, m)
	case *runtime.AttachRequest:
		session.about = []any{"container", m.GetContainerId()}
		session.attach(taken, m)
	case *runtime.PortForwardRequest:
		session.about = []any{"pod", m.GetPodSandboxId()}
		session.forward(taken, m)
	}
	s.log.Info("session ended", append([]any{"kind", kindOf(request), "took", time.Since(began), "trace", trace}, session.about...)...)
}

const (
	kindExec    = "exec"
	kindAttach  = "attach"
	kindForward = "portforward"
)

func kindOf(request any) string {
	switch request.(type) {
	case *runtime.ExecRequest:
		return kindExec
	case *runtime.AttachRequest:
		return kindAttach
	}
	return kindForward
}

// session is one client's session.
type session struct {
	*streams
	request *http.Request
	trace   string
	about   []any
}

func (s *session) call() messages.Call { return messages.Call{Trace: s.trace} }

func (s *session) exec(w http.ResponseWriter, r *runtime.ExecRequest) {
	options := &remotecommand.Options{Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), TTY: r.GetTty()}
	run := &running{session: s, options: options, command: r.GetCmd()}
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(s.request) {
		run.serveV5(w, r.GetContainerId(), true)
		return
	}
	remotecommand.ServeExec(w, s.request, run, "", "", r.GetContainerId(), r.GetCmd(), options,
		s.config.IdleTimeout, s.config.OpenTimeout, remotecommand.SupportedStreamingProtocols)
}

func (s *session) attach(w http.ResponseWriter, r *runtime.AttachRequest) {
	options := &remotecommand.Options{Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), TTY: r.GetTty()}
	run := &running{session: s, options: options}
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(s.request) {
		run.serveV5(w, r.GetContainerId(), false)
		return
	}
	remotecommand.ServeAttach(w, s.request, run, "", "", r.GetContainerId(), options,
		s.config.IdleTimeout, s.config.OpenTimeout, remotecommand.SupportedStreamingProtocols)
}

func (s *session) forward(w http.ResponseWriter, r *runtime.PortForwardRequest) {
	options, err := portforward.BuildV4Options(r.GetPort())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	serve := func(w http.ResponseWriter, request *http.Request) {
		portforward.ServePortForward(w, request, forwarding{s}, r.GetPodSandboxId(), "", options,
			s.config.IdleTimeout, s.config.OpenTimeout, portforward.SupportedProtocols)
	}
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(s.request) {
		tunneled(w, s.request, serve)
		return
	}
	serve(w, s.request)
}

// gone is closed when the client has gone: its connection's context has ended.
func (s *session) gone() <-chan struct{} { return s.request.Context().Done() }

// noHTTP2 is the map that switches HTTP/2 off (net/http, Server.TLSNextProto).
func noHTTP2() map[string]func(*http.Server, *tlsConn, http.Handler) {
	return map[string]func(*http.Server, *tlsConn, http.Handler){}
}

// ctx is what the node is asked with: it ends with the client.
func (s *session) ctx() context.Context { return s.request.Context() }

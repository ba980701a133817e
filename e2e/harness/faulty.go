package harness

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
)

// Fault is how a faulty registry fails on blobs.
type Fault int32

// The faults.
const (
	Healthy Fault = iota
	Hang          // sends half a blob, then nothing more
	Cut           // sends half a blob, then closes the connection
	Corrupt       // sends a blob with one bit changed
)

// FaultyRegistry stands in front of a registry and spoils its blobs.
type FaultyRegistry struct {
	Host   string
	server *httptest.Server
	fault  atomic.Int32
	free   chan struct{} // closed to let hanging answers go
}

// StartFaulty puts a faulty registry in front of r.
func (l *Lab) StartFaulty(r *Registry) (*FaultyRegistry, error) {
	target, err := url.Parse(r.scheme + "://" + r.Host)
	if err != nil {
		return nil, err
	}
	f := &FaultyRegistry{free: make(chan struct{})}
	proxy := httputil.NewSingleHostReverseProxy(target)
	f.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		fault := Fault(f.fault.Load())
		if fault == Healthy || req.Method != http.MethodGet || !strings.Contains(req.URL.Path, "/blobs/") {
			proxy.ServeHTTP(w, req)
			return
		}
		f.spoil(w, req, target.String(), fault)
	}))
	f.Host = f.server.Listener.Addr().String()
	l.OnClose(func() error {
		close(f.free)
		f.server.CloseClientConnections()
		f.server.Close()
		return nil
	})
	return f, nil
}

// Set chooses the fault for the blobs asked for from now on.
func (f *FaultyRegistry) Set(fault Fault) { f.fault.Store(int32(fault)) }

func (f *FaultyRegistry) spoil(w http.ResponseWriter, req *http.Request, target string, fault Fault) {
	resp, err := http.Get(target + req.URL.RequestURI())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		http.Error(w, "no such blob", resp.StatusCode)
		return
	}
	w.Header().Set("Content-Length", resp.Header.Get("Content-Length"))
	if fault == Corrupt {
		body[len(body)/2] ^= 1
		_, _ = w.Write(body) // the client may have gone
		return
	}
	_, _ = w.Write(body[:len(body)/2])
	_ = http.NewResponseController(w).Flush()
	if fault == Hang {
		select {
		case <-req.Context().Done():
		case <-f.free:
		}
	}
	panic(http.ErrAbortHandler) // closes the connection half-way through the answer
}

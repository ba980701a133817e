package harness

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
)

// Fault is how a faulty registry fails on blobs; small ones (configurations)
// are served whole.
type Fault int32

// The faults.
const (
	Healthy   Fault = iota
	Hang            // sends half of what is asked for, then nothing more
	Cut             // sends half a blob, then closes the connection, and knows no Range
	CutRanges       // sends half of what is asked for, then closes the connection
	Corrupt         // sends a blob with one bit changed
)

// FaultyRegistry stands in front of a registry and spoils its blobs.
type FaultyRegistry struct {
	Host    string
	server  *httptest.Server
	handler http.Handler

	mu    sync.Mutex
	fault Fault
	free  chan struct{}  // closed to let hanging answers go
	asked map[string]int // by digest
}

// small is what is never spoilt.
const small = 16 << 10

// StartFaulty puts a faulty registry in front of r.
func (l *Lab) StartFaulty(r *Registry) (*FaultyRegistry, error) {
	target, err := url.Parse(r.scheme + "://" + r.Host)
	if err != nil {
		return nil, err
	}
	f := &FaultyRegistry{free: make(chan struct{}), asked: map[string]int{}}
	proxy := httputil.NewSingleHostReverseProxy(target)
	f.handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, digest, blob := strings.Cut(req.URL.Path, "/blobs/")
		if blob = blob && req.Method == http.MethodGet; !blob {
			proxy.ServeHTTP(w, req)
			return
		}
		f.mu.Lock()
		f.asked[digest]++
		fault, free := f.fault, f.free // together: a Release after Set must find every answer that took the old fault
		f.mu.Unlock()
		if fault == Healthy {
			proxy.ServeHTTP(w, req)
			return
		}
		f.spoil(w, req, target.String(), fault, free)
	})
	f.server = httptest.NewServer(f.handler)
	f.Host = f.server.Listener.Addr().String()
	l.OnClose(func() error {
		f.Release()
		f.server.CloseClientConnections()
		f.server.Close()
		return nil
	})
	return f, nil
}

// Set chooses the fault for the blobs asked for from now on.
func (f *FaultyRegistry) Set(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

// Release closes the connections of answers that hang.
func (f *FaultyRegistry) Release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.free)
	f.free = make(chan struct{})
}

// Down is its death: connections are reset, new ones refused.
func (f *FaultyRegistry) Down() {
	f.Release()
	f.server.CloseClientConnections()
	f.server.Close()
}

// Up starts it again at the same place.
func (f *FaultyRegistry) Up() error {
	l, err := net.Listen("tcp", f.Host)
	if err != nil {
		return fmt.Errorf("starting the registry again: %w", err)
	}
	f.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: f.handler}}
	f.server.Start()
	return nil
}

// Asked is how often a blob was asked for, whatever came of it.
func (f *FaultyRegistry) Asked(digest string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[digest]
}

func (f *FaultyRegistry) spoil(w http.ResponseWriter, req *http.Request, target string, fault Fault, free <-chan struct{}) {
	out, err := http.NewRequestWithContext(req.Context(), http.MethodGet, target+req.URL.RequestURI(), nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	out.Header = req.Header.Clone() // whose it is, and from where it is to go on
	if fault == Cut {
		out.Header.Del("Range")
	}
	resp, err := http.DefaultClient.Do(out)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	maps.Copy(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	if resp.StatusCode >= http.StatusMultipleChoices || len(body) < small {
		_, _ = w.Write(body) // the client may have gone
		return
	}
	if fault == Corrupt {
		body[len(body)/2] ^= 1
		_, _ = w.Write(body)
		return
	}
	_, _ = w.Write(body[:len(body)/2])
	_ = http.NewResponseController(w).Flush()
	if fault == Hang {
		select {
		case <-req.Context().Done():
		case <-free:
		}
	}
	panic(http.ErrAbortHandler) // closes the connection half-way through the answer
}

package main

import (
	"bytes"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// registry serves images from memory and counts what it sends of each blob. It
// is as fast as it can be and the same for all, so that what is measured is
// who pulls.
type registry struct {
	host      string
	manifests map[string][]byte // by name/tag and name/digest
	blobs     map[digest.Digest][]byte

	mu   sync.Mutex
	sent map[digest.Digest]int64
}

func startRegistry() (*registry, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &registry{
		host: l.Addr().String(), manifests: map[string][]byte{},
		blobs: map[digest.Digest][]byte{}, sent: map[digest.Digest]int64{},
	}
	server := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }() // ends with the program
	return r, nil
}

// ServeHTTP is the reading half of the distribution-spec.
func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	path := strings.TrimPrefix(req.URL.Path, "/v2/")
	name, rest, isManifest := strings.Cut(path, "/manifests/")
	if isManifest {
		manifest, ok := r.manifests[name+"/"+rest]
		if !ok {
			http.NotFound(w, req)
			return
		}
		w.Header().Set("Content-Type", ispec.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(manifest).String())
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(manifest))
		return
	}
	_, rest, isBlob := strings.Cut(path, "/blobs/")
	blob, known := r.blobs[digest.Digest(rest)]
	switch {
	case path == "":
		w.WriteHeader(http.StatusOK)
	case isBlob && known:
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(counting{w, r, digest.Digest(rest)}, req, "", time.Time{}, bytes.NewReader(blob))
	default:
		http.NotFound(w, req)
	}
}

type counting struct {
	http.ResponseWriter
	registry *registry
	blob     digest.Digest
}

func (c counting) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.registry.mu.Lock()
	c.registry.sent[c.blob] += int64(n)
	c.registry.mu.Unlock()
	return n, err
}

// reset forgets what was sent.
func (r *registry) reset() {
	r.mu.Lock()
	clear(r.sent)
	r.mu.Unlock()
}

// traffic is what was sent of all blobs, and how much of that was more than
// each blob once.
func (r *registry) traffic() (sent, again int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for d, n := range r.sent {
		sent += n
		again += max(0, n-int64(len(r.blobs[d])))
	}
	return sent, again
}

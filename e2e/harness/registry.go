package harness

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Registry is a docker-registry process on a free loopback port.
type Registry struct {
	Host               string // 127.0.0.1:port
	CA                 string // path of the certificate it is trusted by; empty for plain HTTP
	Username, Password string // empty: open to all
	client             *http.Client
	scheme             string
}

// RegistryOptions say what kind of registry.
type RegistryOptions struct {
	TLS                bool
	Username, Password string
}

// StartRegistry starts a registry that ends with the lab.
func (l *Lab) StartRegistry(ctx context.Context, o RegistryOptions) (*Registry, error) {
	bin, err := Tool("docker-registry")
	if err != nil {
		return nil, err
	}
	host, err := freePort()
	if err != nil {
		return nil, err
	}
	r := &Registry{Host: host, Username: o.Username, Password: o.Password, client: http.DefaultClient, scheme: "http"}
	dir := "registry-" + host[strings.LastIndex(host, ":")+1:]
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"+
		"storage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp:\n  addr: %s\n", l.Path(dir, "data"), host)
	if o.TLS {
		cert, key, client, err := l.selfSigned(dir)
		if err != nil {
			return nil, err
		}
		config += fmt.Sprintf("  tls: {certificate: %s, key: %s}\n", cert, key)
		r.CA, r.client, r.scheme = cert, client, "https"
	}
	if o.Username != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(o.Password), bcrypt.MinCost)
		if err != nil {
			return nil, err
		}
		path, err := l.Write(o.Username+":"+string(hash)+"\n", dir, "htpasswd")
		if err != nil {
			return nil, err
		}
		config += fmt.Sprintf("auth: {htpasswd: {realm: lab, path: %s}}\n", path)
	}
	path, err := l.Write(config, dir, "config.yml")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(bin, "serve", path)
	if err := l.startProcess(cmd, l.Path(dir, "log")); err != nil {
		return nil, fmt.Errorf("starting docker-registry: %w", err)
	}
	return r, r.wait(ctx)
}

func (r *Registry) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		err := r.do(ctx, http.MethodGet, r.scheme+"://"+r.Host+"/v2/", "", nil, http.StatusOK, nil)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("registry at %s does not answer: %w", r.Host, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Push uploads an image under name:tag and gives the reference to pull it by.
func (r *Registry) Push(ctx context.Context, name, tag string, img *Image) (string, error) {
	for digest, blob := range img.Blobs {
		if err := r.pushBlob(ctx, name, digest, blob); err != nil {
			return "", fmt.Errorf("pushing blob %s of %s: %w", digest, name, err)
		}
	}
	url := fmt.Sprintf("%s://%s/v2/%s/manifests/%s", r.scheme, r.Host, name, tag)
	if err := r.do(ctx, http.MethodPut, url, img.MediaType, img.Manifest, http.StatusCreated, nil); err != nil {
		return "", fmt.Errorf("pushing manifest of %s:%s: %w", name, tag, err)
	}
	return r.Host + "/" + name + ":" + tag, nil
}

// pushBlob is the monolithic upload of the distribution-spec: POST for a
// place, PUT with the digest.
func (r *Registry) pushBlob(ctx context.Context, name, digest string, blob []byte) error {
	var place string
	start := fmt.Sprintf("%s://%s/v2/%s/blobs/uploads/", r.scheme, r.Host, name)
	err := r.do(ctx, http.MethodPost, start, "", nil, http.StatusAccepted, func(resp *http.Response) { place = resp.Header.Get("Location") })
	if err != nil {
		return err
	}
	sep := "?"
	if strings.Contains(place, "?") {
		sep = "&"
	}
	return r.do(ctx, http.MethodPut, place+sep+"digest="+digest, "application/octet-stream", blob, http.StatusCreated, nil)
}

func (r *Registry) do(ctx context.Context, method, url, contentType string, body []byte, want int, see func(*http.Response)) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if r.Username != "" {
		req.SetBasicAuth(r.Username, r.Password)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode != want {
		return fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, text)
	}
	if see != nil {
		see(resp)
	}
	return nil
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

package images

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// place is one of several registries with the same images; it can misbehave,
// and remembers what it was asked.
type place struct {
	addr string
	mu   sync.Mutex
	seen []*http.Request
}

// startPlace is in front of a registry. spoil may answer instead of it.
func startPlace(t *testing.T, reg *registry, spoil func(w http.ResponseWriter, r *http.Request) bool) *place {
	t.Helper()
	p := &place{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: reg.addr})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.seen = append(p.seen, r)
		p.mu.Unlock()
		if spoil == nil || !spoil(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	p.addr = strings.TrimPrefix(server.URL, "http://")
	return p
}

// asked says whether it was asked for a path with the word.
func (p *place) asked(word string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.seen, func(r *http.Request) bool { return strings.Contains(r.URL.Path, word) })
}

func on(word string, answer http.HandlerFunc) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, word) {
			return false
		}
		answer(w, r)
		return true
	}
}

func answer(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}

func cut(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func silence(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// withMirrors is a store for which registry.test has these mirrors, and is
// itself at the last of the addresses.
func withMirrors(t *testing.T, addresses ...string) *Store {
	t.Helper()
	return open(t, nil, func(c *Config) {
		last := len(addresses) - 1
		conf := fmt.Sprintf("[[registry]]\nprefix = \"registry.test\"\nlocation = %q\ninsecure = true\n", addresses[last])
		for _, a := range addresses[:last] {
			conf += fmt.Sprintf("[[registry.mirror]]\nlocation = %q\ninsecure = true\n", a)
		}
		write(t, c.RegistriesConf, []byte(conf))
	})
}

func TestMirrorsAreTriedInOrderAndTheRegistryLast(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip"), layerOf(t, "b", "gzip")}})
	for name, c := range map[string]struct {
		spoil func(w http.ResponseWriter, r *http.Request) bool
		next  bool // the second mirror is asked
	}{
		"the first has it":                     {nil, false},
		"the first has another image only":     {on("/manifests/", answer(http.StatusNotFound)), true},
		"the first lets nobody in":             {on("/v2/", answer(http.StatusForbidden)), true},
		"the first is ill":                     {on("/v2/", answer(http.StatusBadGateway)), true},
		"the first is silent":                  {on("/v2/", silence), true},
		"the first is silent for the manifest": {on("/manifests/", silence), true},
		"the first lost its blobs":             {on("/blobs/", answer(http.StatusNotFound)), true},
		"the first lets nobody have blobs":     {on("/blobs/", answer(http.StatusForbidden)), true},
		"the first cuts every blob":            {on("/blobs/", cut), true},
		"the first is silent for blobs":        {on("/blobs/", silence), true},
	} {
		t.Run(name, func(t *testing.T) {
			first, second, last := startPlace(t, reg, c.spoil), startPlace(t, reg, nil), startPlace(t, reg, nil)
			s := withMirrors(t, first.addr, second.addr, last.addr)
			s.resolveLimit = 6 * time.Second
			image := pull(t, s, ask("registry.test/a:v"))
			if !slices.Equal(image.RepoTags, []string{"registry.test/a:v"}) {
				t.Errorf("it is called %v", image.RepoTags)
			}
			if !first.asked("/v2/") || second.asked("/v2/") != c.next || last.asked("/v2/") {
				t.Errorf("asked: first %v, second %v, last %v", first.asked("/v2/"), second.asked("/v2/"), last.asked("/v2/"))
			}
		})
	}
}

func TestAMirrorThatIsDownIsPassedOver(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	pull(t, withMirrors(t, freeAddress(t), freeAddress(t), reg.addr), ask("registry.test/a:v"))
}

// A mirror can go while a pull is under way: with the manifest from it, all the
// layers come from the next.
func TestAMirrorThatGoesDownDuringAPullIsLeft(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip"), layerOf(t, "b", "gzip")}})
	first := startRegistry(t, registryOptions{})
	first.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip"), layerOf(t, "b", "gzip")}})
	s := withMirrors(t, first.addr, reg.addr)
	m, err := s.Resolve(context.Background(), ask("registry.test/a:v"))
	ok(t, err)
	first.kill(t)
	for _, l := range m.Layers {
		ok(t, s.Fetch(context.Background(), ask(""), m, l, nil))
	}
}

// What is wrong only who reads it sees.
func TestAMirrorThatSpoilsALayerIsLeft(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	layer := layerWith(t, map[string][]byte{"noise": noise(t, 100_000)}, "gzip")
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layer}})
	spoiled := slices.Clone(layer.blob)
	spoiled[50_000] ^= 0xff
	first := startPlace(t, reg, on("/blobs/"+digestOf(layer), func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(spoiled) }))
	pull(t, withMirrors(t, first.addr, reg.addr), ask("registry.test/a:v"))
	if !first.asked("/blobs/" + digestOf(layer)) {
		t.Error("the mirror was not asked for the layer")
	}
}

func TestWhenNoPlaceHasTheImageEachIsNamed(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	first, last := startPlace(t, reg, nil), startPlace(t, reg, on("/v2/", answer(http.StatusForbidden)))
	_, err := withMirrors(t, first.addr, last.addr).Resolve(context.Background(), ask("registry.test/absent:v"))
	if messages.KindOf(err) != messages.Unauthorized { // the registry's own answer counts
		t.Errorf("kind of %v", err)
	}
	for _, addr := range []string{first.addr, last.addr} {
		if !strings.Contains(err.Error(), addr) {
			t.Errorf("%s is not in %v", addr, err)
		}
	}
}

func TestAMirrorForDigestsOnlyIsNotAskedForTags(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	d := reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	mirror := startPlace(t, reg, nil)
	s := open(t, nil, func(c *Config) {
		write(t, c.RegistriesConf, fmt.Appendf(nil, `[[registry]]
prefix = "registry.test"
location = %q
insecure = true
[[registry.mirror]]
location = %q
insecure = true
pull-from-mirror = "digest-only"`, reg.addr, mirror.addr))
	})
	if pull(t, s, ask("registry.test/a:v")); mirror.asked("/v2/") {
		t.Error("it was asked for a tag")
	}
	if pull(t, s, ask("registry.test/a@"+d.Digest.String())); !mirror.asked("/manifests/") {
		t.Error("it was not asked for a digest")
	}
}

func TestCredentialsOfARegistryAreNotShownToItsMirrors(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	for name, c := range map[string]struct {
		auth      messages.Auth
		challenge string
	}{
		"password":       {messages.Auth{Username: user, Password: password}, `Basic realm="test"`},
		"registry token": {messages.Auth{RegistryToken: "secret"}, `Bearer realm="http://127.0.0.1:1/token",service="test"`},
	} {
		challenge := func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", c.challenge)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		mirror, last := startPlace(t, reg, challenge), startPlace(t, reg, func(w http.ResponseWriter, r *http.Request) bool {
			return r.Header.Get("Authorization") == "" && challenge(w, r)
		})
		s := open(t, nil, func(c *Config) {
			write(t, c.RegistriesConf, fmt.Appendf(nil, "[[registry]]\nlocation = %q\ninsecure = true\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n", last.addr, mirror.addr))
		})
		pull(t, s, backends.PullRequest{Ref: last.addr + "/a:v", Auth: &c.auth})
		if !mirror.asked("/v2/") || !last.asked("/blobs/") {
			t.Errorf("%s: the mirror was not asked first, or the registry not at last", name)
		}
		for _, r := range mirror.seen {
			if got := r.Header.Get("Authorization"); got != "" && got != "Basic Og==" { // the latter is nobody's
				t.Errorf("%s: the mirror got %q for %s", name, got, r.URL)
			}
		}
	}
}

func TestInsecureRegistriesDoesNotHoldForMirrors(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	mirror := startPlace(t, reg, nil)
	s := open(t, reg, func(c *Config) { // 127.0.0.0/8
		write(t, c.RegistriesConf, fmt.Appendf(nil, "[[registry]]\nlocation = %q\ninsecure = true\n[[registry.mirror]]\nlocation = %q\n", reg.addr, mirror.addr))
	})
	if pull(t, s, ask(reg.addr+"/a:v")); mirror.asked("/v2/") {
		t.Error("a mirror without insecure = true was spoken to by plain HTTP")
	}
}

func TestABlockedRegistryIsRefusedWithTheFileThatBlocksIt(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	asked := startPlace(t, reg, nil)
	s := open(t, reg, func(c *Config) {
		// In a drop-in, which wins over the file.
		write(t, c.RegistriesConf, fmt.Appendf(nil, "[[registry]]\nlocation = %q\n", asked.addr))
		write(t, c.RegistriesConfDir+"/50-block.conf", fmt.Appendf(nil, "[[registry]]\nlocation = %q\nblocked = true\n", asked.addr))
	})
	_, err := s.Resolve(context.Background(), ask(asked.addr+"/a:v"))
	if messages.KindOf(err) != messages.Precondition || !strings.Contains(err.Error(), "blocked") || !strings.Contains(err.Error(), s.cfg.RegistriesConf) {
		t.Errorf("kind %v: %v", messages.KindOf(err), err)
	}
	if asked.asked("/") {
		t.Error("the registry was asked all the same")
	}
}

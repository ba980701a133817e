package images

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/troupe-run/troupe/messages"
)

// tokenFront wants a bearer token, which /token gives to whoever allow lets.
func tokenFront(t *testing.T, reg *registry, allow func(r *http.Request) bool) (addr string, given *atomic.Int32) {
	t.Helper()
	given = &atomic.Int32{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: reg.addr})
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token" && allow(r):
			given.Add(1)
			_, _ = w.Write([]byte(`{"token":"good","access_token":"good","expires_in":300}`))
		case r.URL.Path != "/token" && r.Header.Get("Authorization") == "Bearer good":
			proxy.ServeHTTP(w, r)
		default:
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+server.URL+`/token",service="test"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), given
}

func TestEveryFormOfCredentialsWorksWithOneTokenForAllLayers(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	var layers []packed
	for _, w := range []string{"a", "b", "c", "d"} {
		layers = append(layers, layerOf(t, w, "gzip"))
	}
	reg.push(t, spec{repo: "a", tag: "v", layers: layers})
	for name, c := range map[string]struct {
		auth   messages.Auth
		allow  func(r *http.Request) bool
		tokens int32
	}{
		"password": {
			messages.Auth{Username: user, Password: password},
			func(r *http.Request) bool { u, p, _ := r.BasicAuth(); return u == user && p == password }, 1,
		},
		"identity token": {
			messages.Auth{IdentityToken: "refresh-me"},
			func(r *http.Request) bool { return r.PostFormValue("refresh_token") == "refresh-me" }, 1,
		},
		"registry token": {
			messages.Auth{RegistryToken: "good"},
			func(*http.Request) bool { return false }, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr, given := tokenFront(t, reg, c.allow)
			r := ask(addr + "/a:v")
			r.Auth = &c.auth
			pull(t, open(t, reg, nil), r)
			if n := given.Load(); n != c.tokens {
				t.Errorf("%d tokens were asked for, want %d", n, c.tokens)
			}
		})
	}
}

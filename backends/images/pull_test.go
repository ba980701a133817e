package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/messages"
)

func TestEveryKindOfImageIsPulledWhole(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	for name, s := range map[string]spec{
		"docker-gzip": {docker: true, layers: []packed{layerOf(t, "a", "gzip"), layerOf(t, "b", "gzip")}},
		"oci-gzip":    {layers: []packed{layerOf(t, "a", "gzip"), layerOf(t, "b", "gzip")}},
		"oci-zstd":    {layers: []packed{layerOf(t, "a", "zstd"), layerOf(t, "b", "zstd")}},
		"oci-plain":   {layers: []packed{layerOf(t, "a", ""), layerOf(t, "b", "")}},
		"mixed":       {layers: []packed{layerOf(t, "a", "gzip"), layerOf(t, "b", "zstd"), layerOf(t, "a", "gzip")}},
	} {
		t.Run(name, func(t *testing.T) {
			s.repo, s.tag = name, "v"
			reg.push(t, s)
			store := open(t, reg, nil)
			image := pull(t, store, ask(reg.addr+"/"+name+":v"))
			dirs, err := store.LayerDirs(context.Background(), image.ID)
			ok(t, err)
			if len(dirs) != len(s.layers) {
				t.Fatalf("%d directories, want %d", len(dirs), len(s.layers))
			}
			for i, word := range []string{"a", "b"} {
				data, err := os.ReadFile(filepath.Join(dirs[len(dirs)-1-i], word))
				if err != nil || string(data) != "content of "+word {
					t.Errorf("layer %d: %q, %v", i, data, err)
				}
			}
		})
	}
}

func TestOfAListThisMachinesImageIsTakenAndTheListsDigestIsShown(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	other := reg.push(t, spec{repo: "multi", arch: "s390x", layers: []packed{layerOf(t, "other", "gzip")}})
	mine := reg.push(t, spec{repo: "multi", layers: []packed{layerOf(t, "mine", "gzip")}})
	list := reg.pushIndex(t, "multi", "v", other, mine)
	reg.pushIndex(t, "multi", "foreign", other)
	s := open(t, reg, nil)
	image := pull(t, s, ask(reg.addr+"/multi:v"))
	if want := reg.addr + "/multi@" + list.String(); !slices.Equal(image.RepoDigests, []string{want}) {
		t.Errorf("digests %v, want %s", image.RepoDigests, want)
	}
	// The same image by its own digest gets that name too.
	exact := reg.addr + "/multi@" + mine.Digest.String()
	if again := pull(t, s, ask(exact)); again.ID != image.ID || !slices.Contains(again.RepoDigests, exact) {
		t.Errorf("by its own digest: %+v", again)
	}
	_, err := s.Resolve(context.Background(), ask(reg.addr+"/multi:foreign"))
	if messages.KindOf(err) != messages.NotFound || !strings.Contains(err.Error(), "this machine") {
		t.Errorf("no image for this machine: %v", err)
	}
}

func TestTheConfigurationOfAnImageIsRead(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "app", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}, config: ispec.ImageConfig{
		User: "1000:1000", Env: []string{"A=b"}, Entrypoint: []string{"/e"}, Cmd: []string{"c"}, WorkingDir: "/w",
		Volumes: map[string]struct{}{"/v": {}}, StopSignal: "SIGINT", Labels: map[string]string{"l": "m"},
	}})
	s := open(t, reg, func(c *Config) { c.PinnedImages = []string{"127.0.0.1*"} })
	image := pull(t, s, ask(reg.addr+"/app:v"))
	want := "{1000:1000 [A=b] [/e] [c] /w [/v] SIGINT map[l:m]}"
	if got := fmt.Sprint(image.Config); got != want || !image.Pinned {
		t.Errorf("got %s, pinned %v; want %s", got, image.Pinned, want)
	}
}

func TestPinnedImagesAreExactGlobOrKeyword(t *testing.T) {
	for pattern, want := range map[string]bool{
		"quay.io/app:v1": true, "quay.io/app": false, "quay.io/app*": true, "quay.io/other*": false,
		"*app*": true, "*none*": false, "*": true, "**": false,
	} {
		r := &rules{Config: Config{PinnedImages: []string{pattern}}}
		if got := r.pinned([]string{"quay.io/app:v1"}, nil); got != want {
			t.Errorf("%q: %v, want %v", pattern, got, want)
		}
	}
}

func TestABareNameFollowsRegistriesConf(t *testing.T) {
	conf := `unqualified-search-registries = ["one.test", "two.test"]
[aliases]
"short" = "three.test/long/name"`
	for _, c := range []struct{ mode, conf, ref, want string }{
		{"enforcing", "", "busybox", "docker.io/library/busybox:latest"},
		{"enforcing", "", "me/app:v1", "docker.io/me/app:v1"},
		{"enforcing", conf, "short:v2", "three.test/long/name:v2"},
		{"permissive", conf, "app:v1", "one.test/app:v1 two.test/app:v1"},
		{"enforcing", conf, "app:v1", "error"},
		{"enforcing", conf, "docker.io/app", "docker.io/library/app:latest"},
		{"enforcing", "", "host:5000/app:v1@sha256:" + strings.Repeat("a", 64), "host:5000/app@sha256:" + strings.Repeat("a", 64)},
		{"enforcing", "", strings.Repeat("a", 64), "error"},
	} {
		s := open(t, nil, func(cfg *Config) {
			cfg.ShortNameMode = c.mode
			write(t, cfg.RegistriesConf, []byte(c.conf))
		})
		names, err := s.rules.Load().candidates(c.ref)
		var got []string
		for _, n := range names {
			got = append(got, n.String())
		}
		if err != nil {
			got = []string{"error"}
			if messages.KindOf(err) != messages.Invalid {
				t.Errorf("%s: kind of %v", c.ref, err)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s %s: %v (%v), want %s", c.mode, c.ref, got, err, c.want)
		}
	}
}

func TestTheStoreSharesLayersAndNamesWithSkopeo(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	base, top := layerOf(t, "base", "gzip"), layerOf(t, "top", "zstd")
	reg.push(t, spec{repo: "ours", tag: "v", layers: []packed{base, top}})
	reg.push(t, spec{repo: "theirs", tag: "v", docker: true, layers: []packed{base, layerOf(t, "x", "gzip")}})
	s := open(t, reg, nil)
	pull(t, s, ask(reg.addr+"/ours:v"))
	prefix := fmt.Sprintf("containers-storage:[overlay@%s+%s]", s.cfg.GraphRoot, s.cfg.RunRoot)

	if out := skopeo(t, "inspect", prefix+reg.addr+"/ours:v"); !strings.Contains(out, `"Architecture"`) {
		t.Errorf("skopeo inspect: %s", out)
	}
	dir := t.TempDir()
	skopeo(t, "copy", prefix+reg.addr+"/ours:v", "dir:"+dir)
	if files, _ := os.ReadDir(dir); len(files) < 4 {
		t.Errorf("skopeo copied only %v", files)
	}
	skopeo(t, "copy", "--src-tls-verify=false", "docker://"+reg.addr+"/theirs:v", prefix+reg.addr+"/theirs:v")
	layers, err := s.store.Layers()
	ok(t, err)
	if len(layers) != 3 {
		t.Errorf("%d layers, want 3: the base is shared", len(layers))
	}
	m, err := s.Resolve(context.Background(), ask(reg.addr+"/theirs:v"))
	ok(t, err)
	if !m.Present {
		t.Error("the image skopeo brought is not present")
	}
	all, err := s.List(context.Background())
	ok(t, err)
	if len(all) != 2 || all[0].Size == 0 || len(all[0].RepoTags)+len(all[1].RepoTags) != 2 {
		t.Errorf("listed %+v", all)
	}
}

func TestALayerOfAnotherChainIsNotDownloadedAgain(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	base, shared := layerOf(t, "base", "gzip"), layerOf(t, "shared", "gzip")
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{shared}})
	reg.push(t, spec{repo: "b", tag: "v", layers: []packed{base, shared}})
	s := open(t, reg, nil)
	pull(t, s, ask(reg.addr+"/a:v"))
	m, err := s.Resolve(context.Background(), ask(reg.addr+"/b:v"))
	ok(t, err)
	ok(t, s.Fetch(context.Background(), ask(""), m, m.Layers[1], nil))
	if s.ready(m.Layers[1]) != nil {
		t.Error("the shared layer was downloaded")
	}
	image, err := s.Commit(context.Background(), ask(""), m)
	ok(t, err)
	dirs, err := s.LayerDirs(context.Background(), image.ID)
	ok(t, err)
	if data, err := os.ReadFile(dirs[0] + "/shared"); err != nil || string(data) != "content of shared" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestTheBlobCacheIsEmptyAfterACommit(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip"), layerOf(t, "b", "gzip")}})
	s := open(t, reg, nil)
	pull(t, s, ask(reg.addr+"/a:v"))
	for _, dir := range []string{s.cfg.BlobDir, s.markerDir()} {
		entries, err := os.ReadDir(dir)
		ok(t, err)
		for _, e := range entries {
			if !e.IsDir() {
				t.Errorf("left: %s/%s", dir, e.Name())
			}
		}
	}
}

func TestADamagedLayerIsMadeAnewByAPull(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip"), layerOf(t, "b", "gzip"), layerOf(t, "c", "gzip")}})
	s := open(t, reg, nil)
	image := pull(t, s, ask(reg.addr+"/a:v"))
	dirs, err := s.LayerDirs(context.Background(), image.ID)
	ok(t, err)
	ok(t, os.RemoveAll(dirs[1]))
	if _, err := s.LayerDirs(context.Background(), image.ID); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("damaged image: %v", err)
	}
	again := pull(t, s, ask(reg.addr+"/a:v"))
	dirs, err = s.LayerDirs(context.Background(), again.ID)
	ok(t, err)
	if data, err := os.ReadFile(dirs[1] + "/b"); err != nil || string(data) != "content of b" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestRemovingAnImageWhileAnotherThatSharesItsLayersIsPulled(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	base := layerOf(t, "base", "gzip")
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{base, layerOf(t, "a", "gzip")}})
	s := open(t, reg, nil)
	image := pull(t, s, ask(reg.addr+"/a:v"))
	reg.push(t, spec{repo: "b", tag: "v", layers: []packed{base, layerOf(t, "b", "gzip")}})
	m, err := s.Resolve(context.Background(), ask(reg.addr+"/b:v"))
	ok(t, err)
	chain := chainIDs(m.Layers)
	s.layers.hold(chain) // a commit is under way
	ok(t, s.Remove(context.Background(), image.ID))
	if !s.whole(chain[0]) {
		t.Error("a layer the commit counts on was removed")
	}
	s.letGo(chain) // it fails
	wantNothing(t, s)
	// And one whose layers go before its commit begins gets them again.
	if committed, err := s.Commit(context.Background(), ask(""), m); err != nil || committed.ID != m.ConfigID {
		t.Errorf("%+v, %v", committed, err)
	}
}

func TestCredentialsAreCheckedForAnImageThatIsThere(t *testing.T) {
	reg := startRegistry(t, registryOptions{auth: true})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	s := open(t, reg, nil)
	r := ask(reg.addr + "/a:v")
	r.Auth = &messages.Auth{Username: user, Password: password}
	pull(t, s, r)
	for name, auth := range map[string]*messages.Auth{"none": nil, "wrong": {Username: user, Password: "guess"}} {
		r.Auth = auth
		if _, err := conformance.Pull(context.Background(), s, r); messages.KindOf(err) != messages.Unauthorized {
			t.Errorf("%s credentials: error %v of kind %v", name, err, messages.KindOf(err))
		} else if strings.Contains(err.Error(), "guess") {
			t.Errorf("the password is in %q", err)
		}
	}
	// The node's own file counts when the caller shows nothing.
	write(t, s.cfg.AuthFile, fmt.Appendf(nil, `{"auths":{%q:{"auth":"YWxpY2U6czNjcmV0"}}}`, reg.addr))
	r.Auth = nil
	pull(t, s, r)
}

func TestARegistryWithItsOwnAuthorityIsTrustedByCertsD(t *testing.T) {
	cert := newCertificate(t)
	reg := startRegistry(t, registryOptions{tls: cert})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	s := open(t, reg, nil)
	_, err := s.Resolve(context.Background(), ask(reg.addr+"/a:v"))
	if messages.KindOf(err) != messages.RegistryUnavailable || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown authority: error %v of kind %v", err, messages.KindOf(err))
	}
	write(t, s.cfg.CertsDir+"/"+reg.addr+"/ca.crt", cert.ca)
	pull(t, s, ask(reg.addr+"/a:v"))
}

func TestPlainHTTPNeedsTheConfigurationsLeave(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	s := open(t, nil, nil)
	if _, err := s.Resolve(context.Background(), ask(reg.addr+"/a:v")); messages.KindOf(err) != messages.RegistryUnavailable {
		t.Errorf("error %v of kind %v", err, messages.KindOf(err))
	}
	write(t, s.cfg.RegistriesConf, fmt.Appendf(nil, "[[registry]]\nlocation = %q\ninsecure = true\n", reg.addr))
	ok(t, s.Reload(s.cfg))
	pull(t, s, ask(reg.addr+"/a:v"))
}

func TestThePolicyDecidesBeforeAnythingIsFetched(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	s := open(t, reg, nil)
	write(t, s.cfg.PolicyPath, []byte(`{"default":[{"type":"reject"}]}`))
	_, err := s.Resolve(context.Background(), ask(reg.addr+"/a:v"))
	if messages.KindOf(err) != messages.SignatureValidationFailed {
		t.Errorf("error %v of kind %v", err, messages.KindOf(err))
	}
	_, err = New(Config{GraphRoot: t.TempDir(), RunRoot: t.TempDir(), PolicyPath: "/nowhere/policy.json"})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/policy.json") {
		t.Errorf("missing policy: %v", err)
	}
}

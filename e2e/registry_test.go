package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/troupe-run/troupe/e2e/harness"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Every way a registry and the files about it can be, through the daemon.

const user, password = "kube", "s3cret:with:colons"

func (n *node) pullAs(t *testing.T, ref string, change ...func(*runtime.PullImageRequest)) error {
	t.Helper()
	r := &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}}
	for _, f := range change {
		f(r)
	}
	_, err := n.cri.Image.PullImage(t.Context(), r)
	return err
}

func as(auth *runtime.AuthConfig) func(*runtime.PullImageRequest) {
	return func(r *runtime.PullImageRequest) { r.Auth = auth }
}

func forNamespace(namespace string) func(*runtime.PullImageRequest) {
	return func(r *runtime.PullImageRequest) {
		r.SandboxConfig = &runtime.PodSandboxConfig{Metadata: &runtime.PodSandboxMetadata{Namespace: namespace}}
	}
}

// containers writes a file of ~/.config/containers and gives its path.
func (n *node) containers(t *testing.T, content string, elem ...string) string {
	t.Helper()
	return must(n.lab.Write(content, append([]string{"home", ".config", "containers"}, elem...)...))(t)
}

// reload writes a drop-in and has the daemon apply it.
func (n *node) reload(t *testing.T, toml string) {
	t.Helper()
	must(n.lab.Write(toml, "node", "troupe.conf.d", "50-test.conf"))(t)
	before := strings.Count(n.daemon.Grep("msg=reloaded", 1000), "\n")
	if n.daemon.Grep("msg=reloaded", 1) == "" {
		before = -1
	}
	ok(t, unix.Kill(n.daemon.Pid(), unix.SIGHUP))
	eventually(t, "the configuration is reloaded", func() bool {
		text := n.daemon.Grep("msg=reloaded", 1000)
		return text != "" && strings.Count(text, "\n") > before
	})
}

func push(t *testing.T, r *harness.Registry, name string, img *harness.Image) string {
	t.Helper()
	return must(r.Push(t.Context(), name, "1", img))(t)
}

// unique is an image with content of its own.
func unique(t *testing.T, name string) *harness.Image {
	t.Helper()
	return must(harness.BuildImage(harness.ImageSpec{Cmd: []string{"sleep", "100000"}, Files: map[string]string{"name": name}}))(t)
}

func TestMirrorsOfARegistryAreTriedInOrder(t *testing.T) {
	n := ownNode(t, nil)
	secure := must(n.lab.StartRegistry(t.Context(), harness.RegistryOptions{TLS: true, Username: user, Password: password}))(t)
	n.containers(t, string(must(os.ReadFile(secure.CA))(t)), "certs.d", secure.Host, "ca.crt")
	auth := must(n.lab.Write(authFile(secure.Host), "auth.json"))(t)
	n.containers(t, fmt.Sprintf(`[[registry]]
prefix = "registry.test"
location = "127.0.0.1:1"
[[registry.mirror]]
location = "127.0.0.1:2"
[[registry.mirror]]
location = %q
[[registry.mirror]]
location = %q
insecure = true
`, secure.Host, n.registry.Host), "registries.conf")
	n.reload(t, fmt.Sprintf("[crio.image]\nglobal_auth_file = %q\n", auth))

	// The first is down; each of the others has something the other has not.
	for name, r := range map[string]*harness.Registry{"in-the-second": secure, "in-the-third": n.registry} {
		push(t, r, "lab/"+name, unique(t, name))
		n.run(t, "pull", "registry.test/lab/"+name+":1")
	}
	first, second := unique(t, "first"), unique(t, "second")
	push(t, secure, "lab/in-both", first)
	push(t, n.registry, "lab/in-both", second)
	contains(t, "the one of the earlier mirror", n.run(t, "pull", "registry.test/lab/in-both:1"), strings.TrimPrefix(first.ConfigID, "sha256:"))
	contains(t, "what is in none", n.fails(t, "pull", "registry.test/lab/in-none:1"), secure.Host, n.registry.Host, "127.0.0.1:1")
}

func authFile(host string) string {
	return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

func TestABlockedRegistryIsRefused(t *testing.T) {
	n := ownNode(t, nil)
	ref := push(t, n.registry, "lab/blocked", unique(t, "blocked"))
	n.containers(t, fmt.Sprintf("[[registry]]\nlocation = %q\nblocked = true\n", n.registry.Host+"/lab/blocked"), "registries.conf.d", "50.conf")
	n.reload(t, "")
	refused(t, n.pullAs(t, ref), code(codes.FailedPrecondition), "blocked")
	ok(t, n.pullAs(t, n.image)) // the rest of it is not
}

func TestAnInsecureRegistryOfRegistriesConf(t *testing.T) {
	n := ownNode(t, nil)
	plain := must(n.lab.StartRegistry(t.Context(), harness.RegistryOptions{}))(t)
	ref := push(t, plain, "lab/plain", unique(t, "plain"))
	refused(t, n.pullAs(t, ref), anyCode, "RegistryUnavailable")
	n.containers(t, fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", plain.Host), "registries.conf")
	n.reload(t, "")
	ok(t, n.pullAs(t, ref))
}

func TestAShortNameGoesByTheModeAndTheAliases(t *testing.T) {
	n := ownNode(t, nil)
	other := must(n.lab.StartRegistry(t.Context(), harness.RegistryOptions{}))(t)
	push(t, other, "lab/elsewhere", unique(t, "elsewhere"))
	n.containers(t, fmt.Sprintf("unqualified-search-registries = [%q, %q]\n[[registry]]\nlocation = %q\ninsecure = true\n", n.registry.Host, other.Host, other.Host), "registries.conf")
	n.containers(t, fmt.Sprintf("[aliases]\n\"known\" = \"%s/lab/elsewhere\"\n", other.Host), "registries.conf.d", "aliases.conf")
	n.reload(t, "")
	refused(t, n.pullAs(t, "lab/elsewhere:1"), code(codes.InvalidArgument), n.registry.Host, other.Host)
	ok(t, n.pullAs(t, "known:1"))
	n.reload(t, "[crio.image]\nshort_name_mode = \"permissive\"\n")
	ok(t, n.pullAs(t, "lab/elsewhere:1")) // not in the first, in the second
	contains(t, "its name", strings.Join(n.tags(t), " "), other.Host+"/lab/elsewhere:1")
}

func (n *node) tags(t *testing.T) (tags []string) {
	t.Helper()
	for _, i := range n.images(t) {
		tags = append(tags, i.RepoTags...)
	}
	return tags
}

func TestEveryFormOfCredentialsOfTheKubelet(t *testing.T) {
	n := ownNode(t, nil)
	secure := must(n.lab.StartRegistry(t.Context(), harness.RegistryOptions{TLS: true, Username: user, Password: password}))(t)
	n.containers(t, string(must(os.ReadFile(secure.CA))(t)), "certs.d", secure.Host, "ca.crt")
	img := unique(t, "closed")
	ref := push(t, secure, "lab/closed", img)
	for _, auth := range []*runtime.AuthConfig{
		{Username: user, Password: password},
		{Auth: base64.StdEncoding.EncodeToString([]byte(user + ":" + password))},
	} {
		ok(t, n.pullAs(t, ref, as(auth)))
	}
	for _, auth := range []*runtime.AuthConfig{nil, {Username: user, Password: "guess"}, {IdentityToken: "i"}, {RegistryToken: "r"}} {
		refused(t, n.pullAs(t, ref, as(auth)), anyCode, "lab/closed")
	}

	tokens := tokenRegistry(t, n.registry)
	push(t, n.registry, "lab/tokens", img)
	n2 := nodeWith(t, tokens)
	ref = tokens + "/lab/tokens:1"
	ok(t, n2.pullAs(t, ref, as(&runtime.AuthConfig{IdentityToken: "identity"})))
	ok(t, n2.pullAs(t, ref, as(&runtime.AuthConfig{RegistryToken: "bearer"})))
	ok(t, n2.pullAs(t, ref, as(&runtime.AuthConfig{Username: user, Password: password})))
	for _, auth := range []*runtime.AuthConfig{nil, {IdentityToken: "another"}, {RegistryToken: "another"}} {
		refused(t, n2.pullAs(t, ref, as(auth)), anyCode, "lab/tokens")
	}
}

// tokenRegistry puts the token protocol of the distribution-spec in front of a
// registry.
func tokenRegistry(t *testing.T, r *harness.Registry) (host string) {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: r.Host})
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, p, _ := r.BasicAuth()
		switch {
		case r.URL.Path == "/token" && (r.PostFormValue("refresh_token") == "identity" || u == user && p == password):
			_, _ = w.Write([]byte(`{"token":"bearer","access_token":"bearer","expires_in":300}`))
		case r.URL.Path != "/token" && r.Header.Get("Authorization") == "Bearer bearer":
			proxy.ServeHTTP(w, r)
		default:
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+server.URL+`/token",service="lab"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func TestCredentialsOfTheNodesFilesAndHelpers(t *testing.T) {
	bin := t.TempDir()
	helper := fmt.Sprintf("#!/bin/sh\nread -r host\n[ \"$1\" = get ] && echo '{\"ServerURL\":\"'$host'\",\"Username\":\"%s\",\"Secret\":\"%s\"}'\n", user, password)
	ok(t, os.WriteFile(bin+"/docker-credential-lab", []byte(helper), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	n := ownNode(t, nil)
	secure := must(n.lab.StartRegistry(t.Context(), harness.RegistryOptions{TLS: true, Username: user, Password: password}))(t)
	n.containers(t, string(must(os.ReadFile(secure.CA))(t)), "certs.d", secure.Host, "ca.crt")
	ref := push(t, secure, "lab/closed", unique(t, "closed"))
	refused(t, n.pullAs(t, ref), anyCode, "lab/closed")

	global := must(n.lab.Write(authFile(secure.Host), "global.json"))(t)
	n.reload(t, fmt.Sprintf("[crio.image]\nglobal_auth_file = %q\n", global))
	ok(t, n.pullAs(t, ref))

	must(n.lab.Write(fmt.Sprintf(`{"credHelpers":{%q:"lab"}}`, secure.Host), "global.json"))(t)
	ok(t, n.pullAs(t, ref))

	must(n.lab.Write(`{}`, "global.json"))(t)
	file := fmt.Sprintf("team-%x.json", sha256.Sum256([]byte(secure.Host+"/lab/closed")))
	once := must(n.lab.Write(authFile(secure.Host), "auth", file))(t)
	n.reload(t, fmt.Sprintf("[crio.image]\nglobal_auth_file = %q\nnamespaced_auth_dir = %q\n", global, filepath.Dir(once)))
	refused(t, n.pullAs(t, ref, forNamespace("other")), anyCode, "lab/closed")
	ok(t, n.pullAs(t, ref, forNamespace("team")))
	refused(t, n.pullAs(t, ref, forNamespace("team")), anyCode, "lab/closed") // it was for one pull
}

func TestSignaturesDecideWhatIsPulledAndRun(t *testing.T) {
	n := ownNode(t, nil)
	signer := must(harness.NewSigner(must(n.lab.Mkdir("signer"))(t)))(t)
	t.Cleanup(func() { ok(t, signer.End()) })
	registriesD := filepath.Dir(n.containers(t, "", "registries.d", "empty.yaml"))
	ok(t, harness.WriteLookaside(registriesD, n.registry.Host, n.lab.Path("lookaside")))
	ref := map[string]string{}
	for _, name := range []string{"gpg", "sigstore", "unsigned"} {
		ref[name] = push(t, n.registry, "lab/"+name, unique(t, name))
	}
	ok(t, signer.SignGPG(registriesD, ref["gpg"]))
	ok(t, signer.SignSigstore(t.Context(), registriesD, ref["sigstore"]))

	policy := func(scopes map[string]map[string]string, elem ...string) string {
		return must(n.lab.Write(must(harness.Policy(scopes))(t), elem...))(t)
	}
	gpg := map[string]string{"type": "signedBy", "keyType": "GPGKeys", "keyPath": signer.GPGKey()}
	sigstore := map[string]string{"type": "sigstoreSigned", "keyPath": signer.SigstoreKey()}
	strict := policy(map[string]map[string]string{
		"": {"type": "reject"}, n.registry.Host + "/lab/sigstore": sigstore, n.registry.Host: gpg,
	}, "policies", "strict.json")
	policy(map[string]map[string]string{"": {"type": "reject"}}, "policies", "closed.json")
	n.reload(t, fmt.Sprintf("[crio.image]\nsignature_policy_dir = %q\n", filepath.Dir(strict)))

	// All are pulled for a namespace without a policy; the strict one's pods
	// then find them on the node.
	for _, r := range ref {
		ok(t, n.pullAs(t, r, forNamespace("free")))
	}
	runs := func(namespace, image string) error {
		p := n.pod(t, func(c *runtime.PodSandboxConfig) { c.Metadata.Namespace = namespace })
		_, err := p.createErr(t, func(c *runtime.ContainerConfig) { c.Image.Image = image })
		return err
	}
	for _, c := range []struct {
		namespace, image string
		want             bool
	}{
		{"free", "unsigned", true},
		{"strict", "gpg", true},
		{"strict", "sigstore", true},
		{"strict", "unsigned", false},
		{"closed", "gpg", false},
	} {
		for what, err := range map[string]error{"pull": n.pullAs(t, ref[c.image], forNamespace(c.namespace)), "run": runs(c.namespace, ref[c.image])} {
			if c.want && err != nil {
				t.Errorf("%s of %s in %s: %v", what, c.image, c.namespace, err)
			}
			if !c.want {
				refused(t, err, anyCode, "SignatureValidationFailed", c.namespace+".json")
			}
		}
	}
}

func TestImagesOfEveryFormatRun(t *testing.T) {
	n := ownNode(t, nil)
	p := n.pod(t)
	for name, f := range map[string]harness.Format{
		"docker": {Docker: true, Compression: "gzip"}, "docker-plain": {Docker: true},
		"gzip": {Compression: "gzip"}, "zstd": {Compression: "zstd"}, "plain": {},
	} {
		img := must(unique(t, name).Repack(f))(t)
		ref := push(t, n.registry, "lab/"+name, img)
		n.run(t, "pull", ref)
		equal(t, "what "+name+" holds", strings.TrimSpace(p.output(t, "cat /name", func(c *runtime.ContainerConfig) { c.Image.Image = ref })), name)
	}
}

func TestOfAnIndexTheVariantForThisMachineIsTaken(t *testing.T) {
	n := theNode(t)
	mine, other := unique(t, "mine"), unique(t, "other")
	platform := func(arch, variant string) v1.Platform {
		return v1.Platform{OS: "linux", Architecture: arch, Variant: variant}
	}
	for name, variants := range map[string][]harness.Variant{
		"plain":      {{Image: other, Platform: platform("arm64", "v8")}, {Image: mine, Platform: platform("amd64", "")}},
		"level":      {{Image: other, Platform: platform("s390x", "")}, {Image: mine, Platform: platform("amd64", "v1")}},
		"preference": {{Image: other, Platform: platform("amd64", "v2")}, {Image: mine, Platform: platform("amd64", "")}},
	} {
		ref := must(n.registry.PushIndex(t.Context(), "lab/index", name, variants...))(t)
		contains(t, "the image of "+name, n.run(t, "pull", ref), strings.TrimPrefix(mine.ConfigID, "sha256:"))
	}
	t.Cleanup(func() { n.run(t, "rmi", n.registry.Host+"/lab/index:plain") })
	ref := must(n.registry.PushIndex(t.Context(), "lab/index", "strange", harness.Variant{Image: other, Platform: platform("s390x", "")}))(t)
	refused(t, n.pullAs(t, ref), code(codes.NotFound), "machine")
}

func TestAForeignLayerIsRefusedClearly(t *testing.T) {
	n := theNode(t)
	img := must(unique(t, "foreign").Repack(harness.Format{Compression: "gzip", LayerType: func(int) string {
		//lint:ignore SA1019 deprecated, and what is refused
		return v1.MediaTypeImageLayerNonDistributableGzip
	}}))(t)
	refused(t, n.pullAs(t, push(t, n.registry, "lab/foreign", img)), code(codes.FailedPrecondition), "foreign layer")
}

func TestAPullByDigestGivesThatVeryImage(t *testing.T) {
	n := ownNode(t, nil)
	img := unique(t, "exact")
	byDigest := n.registry.Host + "/lab/exact@" + img.Digest()
	push(t, n.registry, "lab/exact", img)
	push(t, n.registry, "lab/exact", unique(t, "newer")) // the tag moves on
	contains(t, "the image", n.run(t, "pull", byDigest), strings.TrimPrefix(img.ConfigID, "sha256:"))
	refused(t, n.pullAs(t, n.registry.Host+"/lab/exact@sha256:"+strings.Repeat("a", 64)), code(codes.NotFound), "lab/exact")
}

func TestAnEncryptedImageRunsWhereTheKeyIs(t *testing.T) {
	n := ownNode(t, nil)
	key, text, err := harness.DecryptionKey()
	ok(t, err)
	ref := push(t, n.registry, "lab/locked", must(unique(t, "locked").Repack(harness.Format{Compression: "gzip", Recipient: key}))(t))
	keys := must(n.lab.Mkdir("keys"))(t)
	n.reload(t, fmt.Sprintf("[crio.runtime]\ndecryption_keys_path = %q\n", keys))
	refused(t, n.pullAs(t, ref), code(codes.FailedPrecondition), "no key", keys)
	ok(t, os.WriteFile(filepath.Join(keys, "lab.pem"), text, 0o600))
	n.run(t, "pull", ref)
	equal(t, "what it holds", strings.TrimSpace(n.pod(t).output(t, "cat /name", func(c *runtime.ContainerConfig) { c.Image.Image = ref })), "locked")
}

func TestPinnedImagesAreTakenOverWithoutARestart(t *testing.T) {
	n := ownNode(t, nil)
	pinned := func() bool { return n.images(t)[0].Pinned }
	equal(t, "pinned at first", pinned(), false)
	pid := n.daemon.Pid()
	n.reload(t, fmt.Sprintf("[crio.image]\npinned_images = [%q]\n", n.registry.Host+"/lab/*"))
	eventually(t, "it is pinned", pinned)
	n.reload(t, "")
	eventually(t, "it is pinned no more", func() bool { return !pinned() })
	equal(t, "the daemon's pid", n.daemon.Pid(), pid)
}

func TestAnImageOfAnAdditionalStoreRunsAndStays(t *testing.T) {
	n := ownNode(t, nil)
	base := unique(t, "base")
	ref := push(t, n.registry, "lab/base", base)
	store := must(n.lab.Mkdir("additional"))(t)
	into := "containers-storage:[overlay@" + store + "+" + must(n.lab.Mkdir("additional-run"))(t) + ":overlay.skip_mount_home=true]" + ref
	if out, err := exec.Command("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "docker://"+ref, into).CombinedOutput(); err != nil {
		t.Fatalf("skopeo: %v: %s", err, out)
	}
	ok(t, n.daemon.Stop())
	must(n.lab.Write(fmt.Sprintf("[crio]\nstorage_option = [\"overlay.imagestore=%s\"]\n", store), "node", "troupe.conf.d", "50-test.conf"))(t)
	ok(t, n.daemon.Start(t.Context()))
	if !slices.Contains(n.tags(t), ref) {
		t.Errorf("%s is not listed: %v", ref, n.tags(t))
	}
	// Without a pull.
	c := n.pod(t).start(t, "cat /name", func(c *runtime.ContainerConfig) { c.Image.Image = ref })
	c.exited(t)
	equal(t, "what it holds", strings.TrimSpace(c.log(t)), "base")
	n.run(t, "rm", c.id)
	refused(t, n.removeImage(t, ref), code(codes.FailedPrecondition), "additional")
}

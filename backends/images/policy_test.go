package images

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/e2e/harness"
	"github.com/troupe-run/troupe/messages"
)

// signing is a registry with a store that knows where its signatures are.
type signing struct {
	reg   *registry
	store *Store
	ours  *harness.Signer
}

func newSigning(t *testing.T) *signing {
	t.Helper()
	x := &signing{reg: startRegistry(t, registryOptions{}), ours: newSigner(t)}
	x.store = open(t, x.reg, func(c *Config) {
		base := filepath.Dir(c.PolicyPath)
		c.RegistriesDir, c.PolicyDir = base+"/registries.d", base+"/policies"
		ok(t, harness.WriteLookaside(c.RegistriesDir, x.reg.addr, base+"/lookaside"))
	})
	return x
}

func newSigner(t *testing.T) *harness.Signer {
	t.Helper()
	s, err := harness.NewSigner(t.TempDir())
	ok(t, err)
	t.Cleanup(func() { ok(t, s.End()) })
	return s
}

// push gives the name of an image in the registry, with content of its own.
func (x *signing) push(t *testing.T, repo string) string {
	t.Helper()
	x.reg.push(t, spec{repo: repo, tag: "v", layers: []packed{layerOf(t, repo, "gzip")}})
	return x.reg.addr + "/" + repo + ":v"
}

// policy writes what the whole registry needs; all else is rejected.
func (x *signing) policy(t *testing.T, path string, requirement map[string]string) {
	t.Helper()
	text, err := harness.Policy(map[string]map[string]string{"": {"type": "reject"}, x.reg.addr: requirement})
	ok(t, err)
	write(t, path, []byte(text))
}

func signedBy(s *harness.Signer) map[string]string {
	return map[string]string{"type": "signedBy", "keyType": "GPGKeys", "keyPath": s.GPGKey()}
}

func sigstoreSigned(s *harness.Signer) map[string]string {
	return map[string]string{"type": "sigstoreSigned", "keyPath": s.SigstoreKey()}
}

// Both kinds of signature decide, when an image is pulled and when one that is
// here already is to run.
func TestOnlyImagesSignedByTheKeyAreLetIn(t *testing.T) {
	x, others := newSigning(t), newSigner(t)
	d := x.store.cfg.RegistriesDir
	for kind, c := range map[string]struct {
		sign        func(s *harness.Signer, ref string) error
		requirement func(*harness.Signer) map[string]string
	}{
		"gpg":      {func(s *harness.Signer, ref string) error { return s.SignGPG(d, ref) }, signedBy},
		"sigstore": {func(s *harness.Signer, ref string) error { return s.SignSigstore(t.Context(), d, ref) }, sigstoreSigned},
	} {
		t.Run(kind, func(t *testing.T) {
			signed, unsigned, strange := x.push(t, kind+"/signed"), x.push(t, kind+"/unsigned"), x.push(t, kind+"/strange")
			ok(t, c.sign(x.ours, signed))
			ok(t, c.sign(others, strange))
			write(t, x.store.cfg.PolicyPath, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`))
			ids := map[string]string{}
			for _, ref := range []string{signed, unsigned, strange} {
				ids[ref] = pull(t, x.store, ask(ref)).ID
				ok(t, x.store.Allowed(context.Background(), backends.ImageUse{ImageID: ids[ref], Name: ref}))
			}
			x.policy(t, x.store.cfg.PolicyPath, c.requirement(x.ours))
			for ref, want := range map[string]bool{signed: true, unsigned: false, strange: false} {
				_, err := x.store.Resolve(context.Background(), ask(ref))
				judged(t, "pull of "+ref, err, want)
				for _, name := range []string{ref, ids[ref], ""} {
					err = x.store.Allowed(context.Background(), backends.ImageUse{ImageID: ids[ref], Name: name})
					judged(t, "use of "+ref+" as "+name, err, want)
				}
			}
			// The image under a name that it was not signed for.
			err := x.store.Allowed(context.Background(), backends.ImageUse{ImageID: ids[signed], Name: unsigned})
			judged(t, "use under another name", err, false)
		})
	}
}

func judged(t *testing.T, what string, err error, want bool) {
	t.Helper()
	if want && err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if !want && messages.KindOf(err) != messages.SignatureValidationFailed {
		t.Errorf("%s: %v", what, err)
	}
}

func TestASignatureThatCameLaterCountsOnceTheImageIsPulledAgain(t *testing.T) {
	x := newSigning(t)
	ref := x.push(t, "late")
	id := pull(t, x.store, ask(ref)).ID
	use := backends.ImageUse{ImageID: id, Name: ref, Namespace: "strict"}
	x.policy(t, x.store.cfg.PolicyDir+"/strict.json", signedBy(x.ours))
	judged(t, "unsigned", x.store.Allowed(context.Background(), use), false)
	ok(t, x.ours.SignGPG(x.store.cfg.RegistriesDir, ref))
	pull(t, x.store, ask(ref))
	judged(t, "signed", x.store.Allowed(context.Background(), use), true)
}

func TestANamespacesPolicyGoesBeforeTheNodes(t *testing.T) {
	x := newSigning(t)
	ref := x.push(t, "a")
	image := pull(t, x.store, ask(ref))
	write(t, x.store.cfg.PolicyDir+"/strict.json", []byte(`{"default":[{"type":"reject"}]}`))
	for namespace, want := range map[string]bool{"strict": false, "other": true, "": true} {
		_, err := x.store.Resolve(context.Background(), backends.PullRequest{Ref: ref, Namespace: namespace})
		judged(t, "pull in "+namespace, err, want)
		judged(t, "use in "+namespace, x.store.Allowed(context.Background(), backends.ImageUse{ImageID: image.ID, Name: ref, Namespace: namespace}), want)
		if !want && !strings.Contains(err.Error(), "strict.json") {
			t.Errorf("the policy is not named: %v", err)
		}
	}
	// One that cannot be read is no reason to take the node's.
	ok(t, os.Mkdir(x.store.cfg.PolicyDir+"/odd.json", 0o700))
	_, err := x.store.Resolve(context.Background(), backends.PullRequest{Ref: ref, Namespace: "odd"})
	judged(t, "unreadable policy", err, false)
	// Nor does a namespace name a file elsewhere.
	write(t, filepath.Dir(x.store.cfg.PolicyDir)+"/elsewhere.json", []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`))
	for _, namespace := range []string{"../elsewhere", "..", "."} {
		if _, err := x.store.Resolve(context.Background(), backends.PullRequest{Ref: ref, Namespace: namespace}); messages.KindOf(err) != messages.SignatureValidationFailed && messages.KindOf(err) != messages.Invalid {
			t.Errorf("namespace %q: %v", namespace, err)
		}
	}
}

// Skopeo reads the signatures that we have stored, and we those that it has.
func TestStoredSignaturesAreSharedWithSkopeo(t *testing.T) {
	x := newSigning(t)
	ref := x.push(t, "a")
	ok(t, x.ours.SignGPG(x.store.cfg.RegistriesDir, ref))
	image := pull(t, x.store, ask(ref))
	stored := "containers-storage:[overlay@" + x.store.cfg.GraphRoot + "+" + x.store.cfg.RunRoot + "]"
	// It does not unpack a signed image into a folder unless told to drop them.
	out, _ := exec.Command("skopeo", "--insecure-policy", "copy", stored+ref, "dir:"+t.TempDir()).CombinedOutput()
	if !strings.Contains(string(out), "Would invalidate signatures") {
		t.Errorf("skopeo found no signature: %s", out)
	}
	ok(t, x.store.Remove(context.Background(), image.ID))
	skopeo(t, "--insecure-policy", "--registries.d", x.store.cfg.RegistriesDir, "copy", "--src-tls-verify=false", "docker://"+ref, stored+ref)
	x.policy(t, x.store.cfg.PolicyPath, signedBy(x.ours))
	judged(t, "an image that skopeo brought", x.store.Allowed(context.Background(), backends.ImageUse{ImageID: image.ID, Name: ref}), true)
	x.policy(t, x.store.cfg.PolicyPath, signedBy(newSigner(t)))
	judged(t, "the same with another key", x.store.Allowed(context.Background(), backends.ImageUse{ImageID: image.ID, Name: ref}), false)
}

func TestAPolicyIsReadAnewForEachPull(t *testing.T) {
	x := newSigning(t)
	ref := x.push(t, "a")
	for _, want := range []bool{true, false, true} {
		text, err := json.Marshal(map[string]any{"default": []any{map[string]string{"type": map[bool]string{true: "insecureAcceptAnything", false: "reject"}[want]}}})
		ok(t, err)
		write(t, x.store.cfg.PolicyPath, text)
		_, err = x.store.Resolve(context.Background(), ask(ref))
		judged(t, string(text), err, want)
	}
}

// An artifact is mounted as a volume, and its policy asked for that.
func TestAnArtifactIsMountedWhereItsSignatureAllowsIt(t *testing.T) {
	x := newSigning(t)
	ids := map[string]string{}
	for _, repo := range []string{"signed", "unsigned"} {
		x.reg.push(t, spec{repo: repo, tag: "v", layers: []packed{layerOf(t, repo, "gzip")}, configType: "application/vnd.example+json"})
		if repo == "signed" {
			ok(t, x.ours.SignSigstore(t.Context(), x.store.cfg.RegistriesDir, x.reg.addr+"/signed:v"))
		}
		ids[repo] = pull(t, x.store, ask(x.reg.addr+"/"+repo+":v")).ID
	}
	x.policy(t, x.store.cfg.PolicyDir+"/strict.json", sigstoreSigned(x.ours))
	for _, namespace := range []string{"strict", ""} {
		for repo, id := range ids {
			err := x.store.Allowed(context.Background(), backends.ImageUse{ImageID: id, Name: x.reg.addr + "/" + repo + ":v", Namespace: namespace})
			judged(t, repo+" in "+namespace, err, repo == "signed" || namespace == "")
		}
	}
}

package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/signature/sigstore"
	"go.podman.io/image/v5/types"
)

// Signer has a GPG key and a sigstore key of its own, and signs images in
// registries.
type Signer struct {
	dir         string
	fingerprint string
}

// NewSigner makes the keys below dir. End must be called.
func NewSigner(dir string) (*Signer, error) {
	s := &Signer{dir: dir}
	if err := os.MkdirAll(s.path("gpg"), 0o700); err != nil {
		return nil, err
	}
	if _, err := s.gpg("--passphrase", "", "--quick-generate-key", "signer@troupe.test", "ed25519", "sign"); err != nil {
		return nil, err
	}
	list, err := s.gpg("--with-colons", "--list-keys")
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(list, "\nfpr:")
	s.fingerprint = strings.Trim(strings.SplitN(rest, "\n", 2)[0], ":")
	if _, err := s.gpg("--export", "--output", s.GPGKey(), s.fingerprint); err != nil {
		return nil, err
	}
	pair, err := sigstore.GenerateKeyPair([]byte("lab"))
	if err != nil {
		return nil, err
	}
	for path, data := range map[string][]byte{s.SigstoreKey(): pair.PublicKey, s.path("sigstore.key"): pair.PrivateKey} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// End ends GPG's agent.
func (s *Signer) End() error {
	return exec.Command("gpgconf", "--homedir", s.path("gpg"), "--kill", "all").Run()
}

func (s *Signer) path(name string) string { return filepath.Join(s.dir, name) }

// GPGKey is the file of the public key for GPG simple signing.
func (s *Signer) GPGKey() string { return s.path("signer.gpg") }

// SigstoreKey is the file of the public key for sigstore.
func (s *Signer) SigstoreKey() string { return s.path("sigstore.pub") }

// SignGPG signs ref by GPG simple signing, into the lookaside of registriesD, by
// Debian's skopeo.
func (s *Signer) SignGPG(registriesD, ref string) error {
	return s.skopeo(registriesD, ref, "--sign-by", s.fingerprint)
}

// SignSigstore signs ref by sigstore, into its registry, by the library:
// Debian's skopeo comes without.
func (s *Signer) SignSigstore(ctx context.Context, registriesD, ref string) error {
	image, err := docker.ParseReference("//" + ref)
	if err != nil {
		return err
	}
	anything, err := signature.NewPolicyContext(&signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}})
	if err != nil {
		return err
	}
	defer anything.Destroy() //nolint:errcheck // frees memory only
	sys := &types.SystemContext{RegistriesDirPath: registriesD, DockerInsecureSkipTLSVerify: types.OptionalBoolTrue, SystemRegistriesConfPath: os.DevNull}
	_, err = copy.Image(ctx, anything, image, image, &copy.Options{
		SourceCtx: sys, DestinationCtx: sys,
		SignBySigstorePrivateKeyFile: s.path("sigstore.key"), SignSigstorePrivateKeyPassphrase: []byte("lab"),
	})
	return err
}

func (s *Signer) gpg(args ...string) (string, error) {
	out, err := exec.Command("gpg", append([]string{"--homedir", s.path("gpg"), "--batch"}, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("gpg %v: %w: %s", args, err, out)
	}
	return string(out), nil
}

func (s *Signer) skopeo(registriesD, ref string, args ...string) error {
	args = append([]string{"--insecure-policy", "--registries.d", registriesD, "copy", "--src-tls-verify=false", "--dest-tls-verify=false"}, args...)
	cmd := exec.Command("skopeo", append(args, "docker://"+ref, "docker://"+ref)...)
	cmd.Env = append(os.Environ(), "GNUPGHOME="+s.path("gpg"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("skopeo %v: %w: %s", args, err, out)
	}
	return nil
}

// WriteLookaside makes a registries.d by which the signatures of a registry are
// in a folder beside it (GPG) and in the registry itself (sigstore).
func WriteLookaside(registriesD, host, folder string) error {
	if err := os.MkdirAll(registriesD, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("docker:\n  %q:\n    lookaside: \"file://%s\"\n    use-sigstore-attachments: true\n", host, folder)
	return os.WriteFile(filepath.Join(registriesD, "lab.yaml"), []byte(text), 0o644)
}

// Policy is a policy.json: what holds for scopes (a registry, a repository, a
// name), and "" for all others; each is the requirement's fields.
func Policy(scopes map[string]map[string]string) (string, error) {
	docker := map[string]any{}
	policy := map[string]any{"default": []any{scopes[""]}, "transports": map[string]any{"docker": docker}}
	for scope, requirement := range scopes {
		if scope != "" {
			docker[scope] = []any{requirement}
		}
	}
	text, err := json.MarshalIndent(policy, "", "  ")
	return string(text), err
}

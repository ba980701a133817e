package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/types"
)

// resolveLimit ends a Resolve. A manifest is at most 4 MiB, and the kubelet sets
// no deadline for a pull: a registry that accepts the connection and never
// answers would hold it for ever. Of several places (mirrors) each but the last
// has a quarter of it.
const resolveLimit = time.Minute

var errRegistrySilent = errors.New("the registry has not answered in time")

// resolved is what Fetch and Commit go on with. It holds one authenticated
// source that all layers share, so that a pull asks for one token only. The
// source needs no closing: its idle connections end by themselves after 90 s.
type resolved struct {
	source types.ImageSource
	auth   *os.File // the credentials it was opened with, when they are of this pull only
	rules  *rules   // as they were when it was resolved
	named  reference.Named
	top    document // what the registry gave for the name
	image  document // the same, or the one chosen from the list
	config document
	signed signed

	artifact *artifact         // of an OCI artifact, which has no config
	also     []reference.Named // more names an archive gives the image

	full    atomic.Pointer[error] // why the disk has no room for it: what was fetched goes
	useless atomic.Bool           // a layer is not what it should be, or the disk is full: no layer stays
}

func (res *resolved) names() []reference.Named {
	return append([]reference.Named{res.named}, res.also...)
}

// document is a verified piece of JSON.
type document struct {
	digest digest.Digest
	data   []byte
	mime   string
}

// Resolve asks the registry for a reference. It always asks, also when the
// image is here: that is what checks the caller's credentials.
func (s *Store) Resolve(ctx context.Context, r backends.PullRequest) (backends.Manifest, error) {
	s.sweepSometimes()
	if r.Source != "" {
		return s.resolveSource(ctx, r)
	}
	rules := s.rules.Load()
	names, err := rules.candidates(r.Ref)
	if err != nil {
		return backends.Manifest{}, err
	}
	auth, err := rules.takeAuth(r.Namespace, r.Ref)
	if err != nil {
		return backends.Manifest{}, err
	}
	var failed []error
	for _, named := range names {
		m, err := s.resolveName(ctx, rules, r, named, auth)
		if err == nil {
			return m, nil
		}
		failed = append(failed, err)
		if ctx.Err() != nil {
			break
		}
	}
	if len(failed) == 1 {
		return backends.Manifest{}, failed[0]
	}
	return backends.Manifest{}, messages.Errorf(messages.KindOf(failed[0]), "image %q: none of %d registries has it for us: %w", r.Ref, len(names), errors.Join(failed...))
}

func (s *Store) resolveName(ctx context.Context, rules *rules, r backends.PullRequest, named reference.Named, auth *os.File) (backends.Manifest, error) {
	// Each place that the image may be in has a quarter of the limit at least.
	limit := s.resolveLimit * time.Duration(3+len(rules.places(named))) / 4
	tryCtx, cancel := context.WithTimeoutCause(ctx, limit, errRegistrySilent)
	defer cancel()
	m, err := s.readName(tryCtx, rules, r, named, auth)
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(tryCtx), errRegistrySilent) {
		err = messages.Errorf(messages.RegistryUnavailable, "%s: %w (%s): %w", named, errRegistrySilent, limit, err)
	}
	return m, err
}

// readName opens the name's image, wherever it is, with the caller's credentials.
func (s *Store) readName(ctx context.Context, rules *rules, r backends.PullRequest, named reference.Named, auth *os.File) (backends.Manifest, error) {
	sys := rules.systemFor(r.Auth, named)
	if auth != nil {
		sys.AuthFilePath = pathOf(auth)
	}
	source, err := openMirrored(ctx, rules, sys, named, s.resolveLimit)
	if err != nil {
		return backends.Manifest{}, err
	}
	return s.read(ctx, sys, &resolved{source: source, named: named, rules: rules, auth: auth}, r.Namespace)
}

// read goes from the source to the manifest of this machine's image, through
// the policy, to its configuration.
func (s *Store) read(ctx context.Context, sys *types.SystemContext, res *resolved, namespace string) (backends.Manifest, error) {
	if err := res.readTop(ctx); err != nil {
		return backends.Manifest{}, err
	}
	instance, err := res.choose(ctx, sys)
	if err != nil {
		return backends.Manifest{}, err
	}
	// Nothing of the image is looked at before the policy has agreed. The
	// library's own source has the signatures of all kinds.
	unparsed := image.UnparsedInstance(underlying(ctx, res.source), instance)
	if err := res.rules.allowed(ctx, namespace, res.named, unparsed); err != nil {
		return backends.Manifest{}, err
	}
	res.takeSignatures(ctx, s, unparsed)
	if isArtifact(res.image) {
		return s.readArtifact(res)
	}
	parsed, err := parseImage(res)
	if err != nil {
		return backends.Manifest{}, err
	}
	if err := res.readConfig(ctx, parsed.ConfigInfo()); err != nil {
		return backends.Manifest{}, err
	}
	layers, err := layersOf(res, parsed)
	if err != nil {
		return backends.Manifest{}, err
	}
	return backends.Manifest{
		Ref: res.named.String(), Digest: res.top.digest.String(), ConfigID: res.config.digest.Encoded(),
		Layers: layers, Present: s.present(res, layers), Opaque: res,
	}, nil
}

// readTop checks the digest in the reference, if there is one: it is the
// caller's whole reason to write it.
func (res *resolved) readTop(ctx context.Context) error {
	data, mime, err := res.source.GetManifest(ctx, nil)
	if err != nil {
		return registryError(ctx, err, "manifest of %s", res.named)
	}
	got, err := manifest.Digest(data)
	if err != nil {
		return messages.Errorf(messages.Internal, "manifest of %s is not one: %w", res.named, err)
	}
	if want, ok := res.named.(reference.Digested); ok {
		if matches, err := manifest.MatchesDigest(data, want.Digest()); err != nil || !matches {
			return wrongDigest(fmt.Sprintf("manifest of %s", res.named), want.Digest(), got)
		}
		got = want.Digest()
	}
	res.top = document{got, data, manifest.NormalizedMIMEType(mime)}
	res.image = res.top
	return nil
}

func wrongDigest(what string, want, got digest.Digest) error {
	return messages.Errorf(messages.Internal, "%s has the wrong digest: want %s, the registry served %s", what, want, got)
}

// choose takes this machine's image from a list; nil when there is no list.
func (res *resolved) choose(ctx context.Context, sys *types.SystemContext) (*digest.Digest, error) {
	if !manifest.MIMETypeIsMultiImage(res.top.mime) {
		return nil, nil
	}
	list, err := manifest.ListFromBlob(res.top.data, res.top.mime)
	if err != nil {
		return nil, messages.Errorf(messages.Internal, "manifest list of %s: %w", res.named, err)
	}
	instance, err := chooseInstance(list, sys, amd64Levels())
	if err != nil {
		return nil, messages.Errorf(messages.NotFound, "%s has no image for this machine: %w", res.named, err)
	}
	data, mime, err := res.source.GetManifest(ctx, &instance)
	if err != nil {
		return nil, registryError(ctx, err, "manifest %s of %s", instance, res.named)
	}
	if matches, err := manifest.MatchesDigest(data, instance); err != nil || !matches {
		got, _ := manifest.Digest(data)
		return nil, wrongDigest(fmt.Sprintf("manifest of %s", res.named), instance, got)
	}
	res.image = document{instance, data, manifest.NormalizedMIMEType(mime)}
	return &instance, nil
}

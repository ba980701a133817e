package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/types"
)

// places are the hosts where an image may be, in the order in which
// registries.conf has them tried, the registry of its name last.
func (r *rules) places(named reference.Named) []string {
	registry, err := sysregistriesv2.FindRegistry(&r.system, named.Name())
	if err != nil || registry == nil {
		return []string{hostOf(named)}
	}
	sources, err := registry.PullSourcesFromReference(named)
	if err != nil {
		return []string{hostOf(named)} // opening it will say what is wrong
	}
	var hosts []string
	for _, source := range sources {
		if host := hostOf(source.Reference); !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

func hostOf(named reference.Named) string {
	if domain := reference.Domain(named); domain != "docker.io" {
		return domain
	}
	return "registry-1.docker.io"
}

// notBlocked refuses what registries.conf blocks, with a reason of ours: the
// library has no kind for it.
func (r *rules) notBlocked(named reference.Named) error {
	registry, err := sysregistriesv2.FindRegistry(&r.system, named.Name())
	if err != nil {
		return messages.Errorf(messages.Invalid, "image %s: registries.conf: %w", named, err)
	}
	if registry != nil && registry.Blocked {
		return messages.Errorf(messages.Precondition, "image %s: registry %s is blocked by %s", named, registry.Prefix, sysregistriesv2.ConfigurationSourceDescription(&r.system))
	}
	return nil
}

// mirrored is an image that may be in several places. The library tries them
// in order for the manifest, and for a blob goes on to the next where one
// answers that it does not have it or cannot serve it now. That leaves a place
// that is silent, is down by now, or lets us have the manifest only: it is
// given up here, and the image opened anew with that host refused.
type mirrored struct {
	open  func(ctx context.Context) (types.ImageSource, error)
	route route
	limit time.Duration // how long one of several may be silent before it sends a blob

	mu                sync.Mutex
	types.ImageSource       // the one that is open now
	why               error // it was given up: the next use opens another
}

func openMirrored(ctx context.Context, r *rules, sys *types.SystemContext, named reference.Named, limit time.Duration) (*mirrored, error) {
	if err := r.notBlocked(named); err != nil {
		return nil, err
	}
	ref, err := docker.NewReference(named)
	if err != nil {
		return nil, invalidReference(named.String(), err)
	}
	m := &mirrored{limit: limit, route: route{places: r.places(named), refused: map[string]bool{}}}
	if len(m.route.places) > 1 {
		sys.DockerProxy = m.route.proxy
	}
	m.open = func(ctx context.Context) (types.ImageSource, error) {
		for {
			try, cancel := context.WithTimeoutCause(ctx, m.route.limit(limit), errRegistrySilent)
			source, err := ref.NewImageSource(try, sys)
			silent := err != nil && errors.Is(context.Cause(try), errRegistrySilent)
			cancel()
			if !silent || ctx.Err() != nil || !m.route.refuse() {
				return source, err
			}
		}
	}
	if m.ImageSource, err = m.open(ctx); err != nil {
		return nil, registryError(ctx, err, "image %s", named)
	}
	return m, nil
}

// GetBlob asks one place after another. A mirror may have to fetch a large blob
// itself before it answers, so it has longer for it than for a manifest.
func (m *mirrored) GetBlob(ctx context.Context, info types.BlobInfo, cache types.BlobInfoCache) (io.ReadCloser, int64, error) {
	for {
		source, err := m.now(ctx)
		if err != nil {
			return nil, 0, err
		}
		try, cancel := context.WithCancelCause(ctx)
		timer := time.AfterFunc(m.limit, func() {
			if !m.route.atLast() {
				cancel(errRegistrySilent)
			}
		})
		stream, size, err := source.GetBlob(try, info, cache)
		timer.Stop()
		if err == nil {
			return cancelling{stream, cancel}, size, nil
		}
		cancel(err)
		if !m.giveUp(ctx, source, err) {
			return nil, 0, err
		}
	}
}

// cancelling ends the request of a stream with it.
type cancelling struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (c cancelling) Close() error {
	defer c.cancel(nil)
	return c.ReadCloser.Close()
}

// GetManifest asks one place after another for a member of a list. The list
// itself is the one that the first place has given.
func (m *mirrored) GetManifest(ctx context.Context, instance *digest.Digest) ([]byte, string, error) {
	for {
		source, err := m.now(ctx)
		if err != nil {
			return nil, "", err
		}
		data, mime, err := source.GetManifest(ctx, instance)
		if err == nil || instance == nil || !m.giveUp(ctx, source, err) {
			return data, mime, err
		}
	}
}

// now is the library's source as it is open now, with all it can do.
func (m *mirrored) now(ctx context.Context) (types.ImageSource, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.why != nil {
		source, err := m.open(ctx)
		if err != nil {
			return nil, fmt.Errorf("%w; and elsewhere: %w", m.why, err)
		}
		m.ImageSource, m.why = source, nil
	}
	return m.ImageSource, nil
}

// underlying is the library's own source, which can do more than its interface
// says. One that cannot be opened any more says so when it is asked for a blob.
func underlying(ctx context.Context, source types.ImageSource) types.ImageSource {
	if m, ok := source.(*mirrored); ok {
		if now, err := m.now(ctx); err == nil {
			return now
		}
	}
	return source
}

// giveUp leaves the place that a source was last reading from, for good, if
// there is another; it says whether the caller shall try again. A download that
// stood still (errNoProgress) has no time for that any more, but the next one
// begins elsewhere.
func (m *mirrored) giveUp(ctx context.Context, source types.ImageSource, why error) bool {
	ended := ctx.Err() != nil
	if ended && !errors.Is(context.Cause(ctx), errNoProgress) {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ImageSource == source && !m.leave(why) {
		return false
	}
	return !ended
}

func (m *mirrored) leave(why error) bool {
	if m.why == nil && m.route.refuse() {
		m.why = why
	}
	return m.why != nil
}

// elsewhere is for a download that was cut, or served wrongly, again and again:
// the next one begins at another place. It says whether there is one.
func elsewhere(source types.ImageSource, why error) bool {
	m, ok := source.(*mirrored)
	if !ok {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leave(why)
}

// route is which of the places requests go to.
type route struct {
	mu      sync.Mutex
	places  []string
	refused map[string]bool
	at      string // the one of them that was last spoken to
}

// limit is how long one place may be silent; whole is the last one's.
func (r *route) limit(whole time.Duration) time.Duration {
	if r.atLast() {
		return whole
	}
	return whole / 4
}

// atLast says that there is no other place to go to.
func (r *route) atLast() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.places)-len(r.refused) < 2
}

// refuse closes the way to the place last spoken to. The last one stays open.
func (r *route) refuse() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at == "" || r.refused[r.at] || len(r.places)-len(r.refused) < 2 {
		return false
	}
	r.refused[r.at] = true
	return true
}

// proxy stands where the library asks which proxy a request goes by: the one
// point where it tells where it is going, and can be stopped.
func (r *route) proxy(to *url.URL) (*url.URL, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refused[to.Host] {
		return nil, fmt.Errorf("%s was given up in this pull", to.Host)
	}
	if slices.Contains(r.places, to.Host) {
		r.at = to.Host
	}
	return http.ProxyFromEnvironment(&http.Request{URL: to})
}

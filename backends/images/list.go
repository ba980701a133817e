package images

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/storage"
)

// facts are what does not change about an image while its record keeps the
// same data. They are read once, so that List is one read of the store's index.
type facts struct {
	items  int // how many pieces of data the record had
	top    string
	size   uint64
	layers []messages.ImageLayer
	tops   []digest.Digest // manifests that are no member of a list we also have
	config messages.ImageConfig
}

// List gives all images. One that is damaged is left out and logged: it must
// not hide the others, and the next pull repairs it.
func (s *Store) List(ctx context.Context) ([]messages.Image, error) {
	records, err := s.store.Images()
	if err != nil {
		return nil, storeError(err, "listing images")
	}
	list := make([]messages.Image, 0, len(records))
	there := directories{}
	alive := make(map[string]bool, len(records))
	for i := range records {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("listing images: %w", err)
		}
		alive[records[i].ID] = true
		image, err := s.describe(&records[i])
		if err == nil {
			err = s.allThere(&records[i], there)
		}
		s.notListed(records[i].ID, err)
		if err != nil {
			continue
		}
		list = append(list, image)
	}
	for _, record := range s.artifacts.all() {
		list = append(list, s.describeArtifact(record))
	}
	s.mu.Lock()
	maps.DeleteFunc(s.facts, func(id string, _ facts) bool { return !alive[id] })
	maps.DeleteFunc(s.unlisted, func(id, _ string) bool { return !alive[id] })
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b messages.Image) int { return cmp.Compare(a.ID, b.ID) })
	return list, nil
}

// directories remembers, for one List, which layers have theirs.
type directories map[string]error

// allThere says whether the image's layers have their directories: one that
// has not is damaged and in quarantine.
func (s *Store) allThere(record *storage.Image, known directories) error {
	for id := record.TopLayer; id != ""; {
		layer, err := s.store.Layer(id)
		if err != nil {
			return fmt.Errorf("layer %s: %w", id, err)
		}
		if layer.ReadOnly {
			return nil
		}
		err, looked := known[id]
		if !looked {
			err = isDirectory(placeIn(s.imageRoot(), id).diff)
			known[id] = err
		}
		if err != nil {
			return err
		}
		id = layer.Parent
	}
	return nil
}

// Unlisted looks in the store's own index: a damaged image keeps its record.
func (s *Store) Unlisted(ctx context.Context, ref string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("looking for image %s: %w", ref, err)
	}
	if ref == "" {
		return "", nil
	}
	record, err := s.store.Image(strings.TrimPrefix(ref, "sha256:"))
	switch {
	case err == nil:
		return record.ID, nil
	case !errors.Is(err, storage.ErrImageUnknown):
		return "", storeError(err, "looking for image %s", ref)
	}
	if _, d, ok := strings.Cut(ref, "@"); ok {
		records, err := s.store.ImagesByDigest(digest.Digest(d))
		if err != nil && !errors.Is(err, storage.ErrImageUnknown) {
			return "", storeError(err, "looking for image %s", ref)
		}
		for _, r := range records {
			if _, digests := names(r, s.topDigests(r)); slices.Contains(digests, ref) {
				return r.ID, nil
			}
		}
	}
	return "", nil
}

// notListed says once why an image is not listed, until the reason is another.
func (s *Store) notListed(image string, why error) {
	s.mu.Lock()
	before := s.unlisted[image]
	if why == nil {
		delete(s.unlisted, image)
	} else {
		s.unlisted[image] = why.Error()
	}
	s.mu.Unlock()
	if why != nil && why.Error() != before {
		s.log.Warn("image is damaged and is not listed; pull it again", "image", image, "error", why)
	}
}

func (s *Store) describe(record *storage.Image) (messages.Image, error) {
	f, err := s.factsOf(record)
	if err != nil {
		return messages.Image{}, err
	}
	tags, digests := names(record, f.tops)
	return messages.Image{
		ID: record.ID, RepoTags: tags, RepoDigests: digests,
		Size: f.size, Layers: f.layers, Config: f.config,
		// What cannot be removed the kubelet shall not try to.
		Pinned: record.ReadOnly || s.rules.Load().pinned(tags, digests),
	}, nil
}

func (s *Store) factsOf(record *storage.Image) (facts, error) {
	s.mu.Lock()
	f, ok := s.facts[record.ID]
	s.mu.Unlock()
	if ok && f.items == len(record.BigDataNames) && f.top == record.TopLayer {
		return f, nil
	}
	f, err := s.readFacts(record)
	if err != nil {
		return facts{}, storeError(err, "image %s", record.ID)
	}
	s.mu.Lock()
	s.facts[record.ID] = f
	s.mu.Unlock()
	return f, nil
}

func (s *Store) readFacts(record *storage.Image) (facts, error) {
	layers, err := s.layersOf(record)
	if err != nil {
		return facts{}, err
	}
	size, err := s.imageSize(record, layers)
	if err != nil {
		return facts{}, err
	}
	config, err := s.configOf(record)
	if err != nil {
		return facts{}, err
	}
	return facts{
		items: len(record.BigDataNames), top: record.TopLayer,
		layers: layers,
		size:   max(size, 1), // critest and the kubelet want it above 0
		tops:   s.topDigests(record), config: config,
	}, nil
}

// layersOf are an image's layers, the lowest first.
func (s *Store) layersOf(record *storage.Image) (layers []messages.ImageLayer, err error) {
	for id := record.TopLayer; id != ""; {
		layer, err := s.store.Layer(id)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", id, err)
		}
		size := layer.UncompressedSize
		if layer.UncompressedDigest == "" || size < 0 { // some other tool has made it
			size = -1
		}
		layers = append(layers, messages.ImageLayer{ID: id, Size: size})
		id = layer.Parent
	}
	slices.Reverse(layers)
	return layers, nil
}

// imageSize is the uncompressed size of the layers plus the record's data, the
// figure podman shows.
func (s *Store) imageSize(record *storage.Image, layers []messages.ImageLayer) (uint64, error) {
	var size int64
	for _, n := range record.BigDataSizes {
		size += n
	}
	for _, layer := range layers {
		if layer.Size < 0 { // let the library measure
			size, err := s.store.ImageSize(record.ID)
			return uint64(max(size, 0)), err
		}
		size += layer.Size
	}
	return uint64(size), nil
}

// configOf reads the configuration. Its key is the image's id, except for
// images podman has pulled in chunks: then the manifest names it.
func (s *Store) configOf(record *storage.Image) (messages.ImageConfig, error) {
	key := "sha256:" + record.ID
	if !slices.Contains(record.BigDataNames, key) {
		data, err := s.store.ImageBigData(record.ID, storage.ImageDigestBigDataKey)
		if err != nil {
			return messages.ImageConfig{}, err
		}
		parsed, err := manifest.FromBlob(data, manifest.GuessMIMEType(data))
		if err != nil {
			return messages.ImageConfig{}, err
		}
		key = parsed.ConfigInfo().Digest.String()
	}
	data, err := s.store.ImageBigData(record.ID, key)
	if err != nil {
		return messages.ImageConfig{}, fmt.Errorf("configuration: %w", err)
	}
	var image ispec.Image
	if err := json.Unmarshal(data, &image); err != nil {
		return messages.ImageConfig{}, fmt.Errorf("configuration: %w", err)
	}
	c := image.Config
	config := messages.ImageConfig{
		User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd,
		WorkingDir: c.WorkingDir, StopSignal: c.StopSignal, Labels: c.Labels,
	}
	for path := range c.Volumes {
		config.Volumes = append(config.Volumes, path)
	}
	slices.Sort(config.Volumes)
	return config, nil
}

// topDigests are the digests by which registries name the image: that of the
// list where there was one, not of the image inside it.
func (s *Store) topDigests(record *storage.Image) []digest.Digest {
	members := map[digest.Digest]bool{}
	var tops []digest.Digest
	for _, key := range record.BigDataNames {
		value, ok := strings.CutPrefix(key, storage.ImageDigestManifestBigDataNamePrefix+"-")
		if !ok {
			continue
		}
		tops = append(tops, digest.Digest(value))
		data, err := s.store.ImageBigData(record.ID, key)
		if err != nil {
			continue
		}
		mime := manifest.GuessMIMEType(data)
		if !manifest.MIMETypeIsMultiImage(mime) {
			continue
		}
		if list, err := manifest.ListFromBlob(data, mime); err == nil {
			for _, member := range list.Instances() {
				members[member] = true
			}
		}
	}
	tops = slices.DeleteFunc(tops, func(d digest.Digest) bool { return members[d] })
	if len(tops) == 0 && record.Digest != "" {
		tops = append(tops, record.Digest)
	}
	slices.Sort(tops)
	return tops
}

// names are CRI's repo_tags and repo_digests. An image that has lost all its
// names shows the digest in the repository it came from, so that people can
// still tell what it was.
func names(record *storage.Image, tops []digest.Digest) (tags, digests []string) {
	add := func(name string, withTag bool) {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return
		}
		if exact, ok := named.(reference.Canonical); ok {
			digests = append(digests, exact.Name()+"@"+exact.Digest().String())
			return
		}
		if _, tagged := named.(reference.Tagged); tagged && withTag {
			tags = append(tags, named.String())
		}
		for _, d := range tops {
			digests = append(digests, named.Name()+"@"+d.String())
		}
	}
	for _, name := range record.Names {
		add(name, true)
	}
	if len(record.Names) == 0 {
		for _, name := range record.NamesHistory {
			add(name, false)
		}
	}
	slices.Sort(tags)
	slices.Sort(digests)
	return slices.Compact(tags), slices.Compact(digests)
}

// pinned matches pinned_images of crio.conf(5): exact, a glob at the end, or a
// keyword between two stars.
func (r *rules) pinned(tags, digests []string) bool {
	for _, name := range append(slices.Clone(tags), digests...) {
		for _, pattern := range r.PinnedImages {
			prefix, glob := strings.CutSuffix(pattern, "*")
			keyword, both := strings.CutPrefix(prefix, "*")
			switch {
			case pattern == name,
				glob && both && keyword != "" && strings.Contains(name, keyword),
				glob && !both && strings.HasPrefix(name, prefix):
				return true
			}
		}
	}
	return false
}

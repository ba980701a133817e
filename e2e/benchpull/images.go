package main

import (
	"bytes"
	"encoding/json"
	"io"
	"runtime"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage/pkg/chunked/compressor"
	"golang.org/x/sync/errgroup"
)

// layer is one that can be in several images.
type layer struct {
	descriptor ispec.Descriptor
	diffID     digest.Digest
	blob       []byte
}

// format is how a layer is packed.
type format struct {
	mediaType string
	pack      func(w io.Writer, annotations map[string]string) (io.WriteCloser, error)
}

var (
	asGzip = format{ispec.MediaTypeImageLayerGzip, func(w io.Writer, _ map[string]string) (io.WriteCloser, error) {
		return gzip.NewWriter(w), nil
	}}
	asZstd = format{ispec.MediaTypeImageLayerZstd, func(w io.Writer, _ map[string]string) (io.WriteCloser, error) {
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	}}
	asChunked = format{ispec.MediaTypeImageLayerZstd, func(w io.Writer, annotations map[string]string) (io.WriteCloser, error) {
		return compressor.ZstdCompressor(w, annotations, nil)
	}}
)

func (f format) layer(files []file) (*layer, error) {
	archive, err := tarOf(files)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	annotations := map[string]string{}
	w, err := f.pack(&out, annotations)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(archive); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	d := descriptor(f.mediaType, out.Bytes())
	d.Annotations = annotations
	return &layer{d, digest.FromBytes(archive), out.Bytes()}, nil
}

// layers makes one of each list of files, as many at a time as there are cores.
func (f format) layers(contents ...[]file) ([]*layer, error) {
	out := make([]*layer, len(contents))
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	for i, files := range contents {
		g.Go(func() (err error) {
			out[i], err = f.layer(files)
			return err
		})
	}
	return out, g.Wait()
}

func descriptor(mediaType string, content []byte) ispec.Descriptor {
	return ispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

// imageOf makes an image of layers and gives the reference to pull it by.
func (r *registry) imageOf(name string, layers ...*layer) (string, error) {
	var config ispec.Image
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.RootFS.Type = "layers"
	m := ispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ispec.MediaTypeImageManifest}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diffID)
		m.Layers = append(m.Layers, l.descriptor)
		r.blobs[l.descriptor.Digest] = l.blob
	}
	text, err := json.Marshal(config)
	if err != nil {
		return "", err
	}
	m.Config = descriptor(ispec.MediaTypeImageConfig, text)
	r.blobs[m.Config.Digest] = text
	manifest, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	r.manifests[name+"/latest"], r.manifests[name+"/"+digest.FromBytes(manifest).String()] = manifest, manifest
	return r.host + "/" + name + ":latest", nil
}

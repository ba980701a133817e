package harness

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"

	"github.com/containers/ocicrypt"
	"github.com/containers/ocicrypt/config"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/manifest"
)

// Format is how an image is packed; its content stays the same.
type Format struct {
	Docker      bool             // Docker v2 schema 2 instead of OCI
	Compression string           // "gzip", "zstd" or "" for none
	Recipient   *rsa.PrivateKey  // encrypt all layers for this key (ocicrypt, JWE)
	LayerType   func(int) string // other media types than the right ones
}

// Repack gives the image in another format.
func (i *Image) Repack(f Format) (*Image, error) {
	out := &Image{ConfigID: i.ConfigID, MediaType: v1.MediaTypeImageManifest, Blobs: map[string][]byte{i.ConfigID: i.Blobs[i.ConfigID]}}
	m := v1.Manifest{MediaType: out.MediaType, Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.Digest(i.ConfigID), Size: int64(len(i.Blobs[i.ConfigID]))}}
	m.SchemaVersion = 2
	if f.Docker {
		out.MediaType = manifest.DockerV2Schema2MediaType
		m.MediaType, m.Config.MediaType = out.MediaType, manifest.DockerV2Schema2ConfigMediaType
	}
	for n, name := range i.LayerOrder {
		layer, blob, err := f.layer(i.Blobs[name])
		if err != nil {
			return nil, err
		}
		if f.LayerType != nil {
			layer.MediaType = f.LayerType(n)
		}
		m.Layers = append(m.Layers, layer)
		out.Blobs[layer.Digest.String()] = blob
		out.LayerOrder = append(out.LayerOrder, layer.Digest.String())
	}
	var err error
	out.Manifest, err = json.Marshal(m)
	return out, err
}

// layer packs a gzipped layer anew.
func (f Format) layer(zipped []byte) (v1.Descriptor, []byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		return v1.Descriptor{}, nil, err
	}
	blob, err := io.ReadAll(z)
	if err != nil {
		return v1.Descriptor{}, nil, err
	}
	d := v1.Descriptor{MediaType: v1.MediaTypeImageLayer}
	switch f.Compression {
	case "gzip":
		blob, d.MediaType = zipped, v1.MediaTypeImageLayerGzip
	case "zstd":
		w, err := zstd.NewWriter(nil)
		if err != nil {
			return d, nil, err
		}
		blob, d.MediaType = w.EncodeAll(blob, nil), v1.MediaTypeImageLayerZstd
	}
	if f.Docker {
		d.MediaType = map[string]string{"": manifest.DockerV2SchemaLayerMediaTypeUncompressed, "gzip": manifest.DockerV2Schema2LayerMediaType}[f.Compression]
	}
	if f.Recipient != nil {
		if blob, d.Annotations, err = encrypt(blob, f.Recipient); err != nil {
			return d, nil, err
		}
		d.MediaType += "+encrypted"
	}
	d.Digest, d.Size = digest.Digest(digestOf(blob)), int64(len(blob))
	return d, blob, nil
}

func encrypt(blob []byte, key *rsa.PrivateKey) ([]byte, map[string]string, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, err
	}
	recipients, err := config.EncryptWithJwe([][]byte{pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})})
	if err != nil {
		return nil, nil, err
	}
	stream, finish, err := ocicrypt.EncryptLayer(recipients.EncryptConfig, bytes.NewReader(blob), v1.Descriptor{Digest: digest.Digest(digestOf(blob))})
	if err != nil {
		return nil, nil, err
	}
	if blob, err = io.ReadAll(stream); err != nil {
		return nil, nil, err
	}
	annotations, err := finish()
	return blob, annotations, err
}

// DecryptionKey makes a key for encrypted layers; the text is for a file in
// decryption_keys_path.
func DecryptionKey() (key *rsa.PrivateKey, text []byte, err error) {
	if key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// Variant is a member of an index.
type Variant struct {
	Image    *Image
	Platform v1.Platform
}

// PushIndex uploads images and an index of them.
func (r *Registry) PushIndex(ctx context.Context, name, tag string, variants ...Variant) (string, error) {
	index := v1.Index{MediaType: v1.MediaTypeImageIndex}
	index.SchemaVersion = 2
	for _, v := range variants {
		if _, err := r.Push(ctx, name, v.Image.Digest(), v.Image); err != nil {
			return "", err
		}
		index.Manifests = append(index.Manifests, v1.Descriptor{
			MediaType: v.Image.MediaType, Digest: digest.Digest(v.Image.Digest()), Size: int64(len(v.Image.Manifest)), Platform: &v.Platform,
		})
	}
	data, err := json.Marshal(index)
	if err != nil {
		return "", err
	}
	url := fmt.Sprintf("%s://%s/v2/%s/manifests/%s", r.scheme, r.Host, name, tag)
	if err := r.do(ctx, http.MethodPut, url, index.MediaType, data, http.StatusCreated, nil); err != nil {
		return "", fmt.Errorf("pushing index %s:%s: %w", name, tag, err)
	}
	return r.Host + "/" + name + ":" + tag, nil
}

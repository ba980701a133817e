package harness

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// ImageSpec describes an image to make. Its first layer is Debian's static
// busybox with all its commands, a passwd and a group file, unless it brings
// layers of its own.
type ImageSpec struct {
	Cmd, Entrypoint, Env []string
	User, WorkingDir     string
	StopSignal           string
	Volumes              []string
	Labels               map[string]string
	Passwd               string            // lines added to /etc/passwd
	Files                map[string]string // a second layer, by path without leading slash
	Links                map[string]string // symbolic links of the second layer, which replace what is there
	Ballast              []int             // further layers of that many incompressible bytes
	Zeros                int               // a further layer of that many zeros: small until it is unpacked
	More                 []*Layer          // further layers
	Layers               []*Layer          // instead of busybox's layer; Passwd then has no effect
}

// Image is a made image: blobs by digest and its manifest.
type Image struct {
	Manifest   []byte
	MediaType  string
	Blobs      map[string][]byte
	ConfigID   string // sha256:… of the configuration, which is the image id
	LayerOrder []string
}

// Media types of OCI images (image-spec, media-types.md).
const (
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociConfig   = "application/vnd.oci.image.config.v1+json"
	ociLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int    `json:"size"`
}

// Digest is the digest of the manifest, by which the image can be pulled.
func (i *Image) Digest() string { return digestOf(i.Manifest) }

// BuildImage makes an image; the same spec gives the same digests.
func BuildImage(spec ImageSpec) (*Image, error) {
	var tars [][]byte
	for _, l := range spec.Layers {
		tars = append(tars, l.done())
	}
	if len(tars) == 0 {
		base, err := busyboxLayer(spec.Passwd)
		if err != nil {
			return nil, err
		}
		tars = append(tars, base)
	}
	if len(spec.Files)+len(spec.Links) > 0 {
		extra := &Layer{}
		for _, name := range slices.Sorted(maps.Keys(spec.Files)) {
			extra.File(name, []byte(spec.Files[name]), 0o755)
		}
		for _, name := range slices.Sorted(maps.Keys(spec.Links)) {
			extra.Symlink(name, spec.Links[name])
		}
		tars = append(tars, extra.done())
	}
	for i, size := range spec.Ballast {
		noise := make([]byte, size)
		random := rand.NewChaCha8([32]byte{byte(i), byte(size), byte(size >> 8), byte(size >> 16)})
		_, _ = random.Read(noise) // never fails
		extra := &Layer{}
		extra.File(fmt.Sprintf("ballast-%d", i), noise, 0o644)
		tars = append(tars, extra.done())
	}
	if spec.Zeros > 0 {
		extra := &Layer{}
		extra.File("zeros", make([]byte, spec.Zeros), 0o644)
		tars = append(tars, extra.done())
	}
	for _, l := range spec.More {
		tars = append(tars, l.done())
	}
	return assemble(spec, tars)
}

func assemble(spec ImageSpec, tars [][]byte) (*Image, error) {
	img := &Image{Blobs: map[string][]byte{}, MediaType: ociManifest}
	var layers []descriptor
	var diffIDs []string
	for _, t := range tars {
		z, err := compress(t)
		if err != nil {
			return nil, err
		}
		d := digestOf(z)
		img.Blobs[d] = z
		img.LayerOrder = append(img.LayerOrder, d)
		layers = append(layers, descriptor{ociLayer, d, len(z)})
		diffIDs = append(diffIDs, digestOf(t))
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z",
		"config": map[string]any{
			"Cmd": spec.Cmd, "Entrypoint": spec.Entrypoint, "User": spec.User, "WorkingDir": spec.WorkingDir,
			"Env":    append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, spec.Env...),
			"Labels": spec.Labels, "StopSignal": spec.StopSignal, "Volumes": set(spec.Volumes),
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		return nil, err
	}
	img.ConfigID = digestOf(config)
	img.Blobs[img.ConfigID] = config
	img.Manifest, err = json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": ociManifest,
		"config": descriptor{ociConfig, img.ConfigID, len(config)}, "layers": layers,
	})
	return img, err
}

func set(names []string) map[string]struct{} {
	out := map[string]struct{}{}
	for _, n := range names {
		out[n] = struct{}{}
	}
	return out
}

func busyboxLayer(passwd string) ([]byte, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("no busybox to make an image from: apt-get install busybox-static (make setup does)")
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list: %w", err)
	}
	l := &Layer{}
	for _, dir := range []string{"bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr", "usr/bin", "var"} {
		l.Dir(dir)
	}
	l.File("bin/busybox", program, 0o755)
	for _, name := range strings.Fields(string(list)) {
		if name != "busybox" {
			l.Symlink("bin/"+name, "busybox")
		}
	}
	l.File("etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/sh\n"+passwd), 0o644)
	l.File("etc/group", []byte("root:x:0:\nwheel:x:10:root\nnogroup:x:65534:\n"), 0o644)
	return l.done(), nil
}

func compress(b []byte) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

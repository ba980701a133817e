package images

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/messages"
)

// blobOf is a file of an artifact, as ORAS pushes it.
type blobOf struct{ title, content string }

func (r *registry) pushArtifact(t *testing.T, repo, tag string, change func(*ispec.Manifest), files ...blobOf) ispec.Descriptor {
	t.Helper()
	m := ispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ispec.MediaTypeImageManifest,
		ArtifactType: "application/vnd.example.files", Config: ispec.DescriptorEmptyJSON,
	}
	r.pushBlob(t, repo, ispec.DescriptorEmptyJSON.Data)
	for _, f := range files {
		d := ispec.Descriptor{MediaType: "text/plain", Digest: r.pushBlob(t, repo, []byte(f.content)), Size: int64(len(f.content))}
		if f.title != "" {
			d.Annotations = map[string]string{ispec.AnnotationTitle: f.title}
		}
		m.Layers = append(m.Layers, d)
	}
	if change != nil {
		change(&m)
	}
	data, err := json.Marshal(m)
	ok(t, err)
	return ispec.Descriptor{MediaType: m.MediaType, Digest: r.pushManifest(t, repo, tag, m.MediaType, data), Size: int64(len(data))}
}

// shown is what a volume of the image holds: path to content.
func shown(t *testing.T, s *Store, id string) map[string]string {
	t.Helper()
	dirs, err := s.LayerDirs(context.Background(), id)
	ok(t, err)
	if len(dirs) != 1 {
		t.Fatalf("%d directories, want one: %v", len(dirs), dirs)
	}
	files := map[string]string{}
	ok(t, filepath.WalkDir(dirs[0], func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		want := os.FileMode(0o644)
		if e.IsDir() {
			want = os.ModeDir | 0o755
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
		if e.IsDir() {
			return nil
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dirs[0], path)
		files[name] = string(data)
		return err
	}))
	return files
}

func wantFiles(t *testing.T, got map[string]string, want ...blobOf) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("got %d files %v, want %v", len(got), got, want)
	}
	for _, f := range want {
		if got[f.title] != f.content {
			t.Errorf("%s is %q, want %q", f.title, got[f.title], f.content)
		}
	}
}

func TestAnArtifactBecomesFilesListedByNameAndRemoved(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	pushed := reg.pushArtifact(t, "models", "v", nil,
		blobOf{"readme.txt", "read"}, blobOf{"sub/dir/weights", "heavy"}, blobOf{"same", "read"}, blobOf{"empty", ""})
	s := open(t, reg, func(c *Config) { c.PinnedImages = []string{"127.0.0.1*"} })
	ref := reg.addr + "/models:v"
	a := pull(t, s, ask(ref))
	exact := reg.addr + "/models@" + pushed.Digest.String()
	if a.ID != pushed.Digest.Encoded() || !a.Artifact || !a.Pinned || a.Size != uint64(pushed.Size)+4+5+4 ||
		!slices.Equal(a.RepoTags, []string{ref}) || !slices.Equal(a.RepoDigests, []string{exact}) {
		t.Errorf("got %+v", a)
	}
	wantFiles(t, shown(t, s, a.ID), blobOf{"readme.txt", "read"}, blobOf{"sub/dir/weights", "heavy"}, blobOf{"same", "read"}, blobOf{"empty", ""})

	m, err := s.Resolve(context.Background(), ask(exact))
	ok(t, err)
	if !m.Present || m.ConfigID != a.ID {
		t.Errorf("again: %+v", m)
	}
	use, err := s.Usage(context.Background())
	ok(t, err)
	if use.UsedBytes != a.Size || use.Inodes != 4 {
		t.Errorf("usage %+v, want %d bytes in 4 files", use, a.Size)
	}
	again := reopened(t, s)
	list, err := again.List(context.Background())
	ok(t, err)
	if len(list) != 1 || list[0].ID != a.ID || !slices.Equal(list[0].RepoTags, a.RepoTags) {
		t.Errorf("after a new start: %+v", list)
	}
	for range 2 { // the second time there is nothing
		ok(t, s.Remove(context.Background(), a.ID))
	}
	wantNoArtifacts(t, s)
}

// reopened is the store a later daemon would open.
func reopened(t *testing.T, s *Store) *Store {
	t.Helper()
	again, err := New(s.cfg)
	ok(t, err)
	again.behind.Wait()
	t.Cleanup(func() { ok(t, again.Close()) })
	return again
}

func wantNoArtifacts(t *testing.T, s *Store) {
	t.Helper()
	list, err := s.List(context.Background())
	ok(t, err)
	left, err := os.ReadDir(s.artifacts.dir)
	ok(t, err)
	blobs, err := filepath.Glob(s.cfg.BlobDir + "/sha256*")
	ok(t, err)
	if len(list)+len(left)+len(blobs) > 0 {
		t.Errorf("left: %v, %v, %v", list, left, blobs)
	}
}

func TestTheNamesOfAnArtifactsFiles(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	s := open(t, reg, nil)
	const sum = "sha256-9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0" // of "aaa"
	a := pull(t, s, ask(reg.addr+"/names@"+reg.pushArtifact(t, "names", "", func(m *ispec.Manifest) {
		m.Layers[1].Annotations = map[string]string{modelPath: "model/x"}
		m.Layers[2].Annotations = map[string]string{ispec.AnnotationTitle: "tar", "io.deis.oras.content.unpack": "true"}
		m.Layers[2].MediaType = ispec.MediaTypeImageLayerGzip
		m.Layers = append(m.Layers, ispec.DescriptorEmptyJSON)
	}, blobOf{"", "aaa"}, blobOf{"", "bbb"}, blobOf{"", "not even a tar"}, blobOf{"./a//b/", "ccc"}).Digest.String()))
	wantFiles(t, shown(t, s, a.ID), blobOf{sum, "aaa"}, blobOf{"model/x", "bbb"}, blobOf{"tar", "not even a tar"}, blobOf{"a/b", "ccc"})

	for name, files := range map[string][]blobOf{
		"is not a path": {{"/etc/passwd", "x"}}, "../up": {{"../up", "x"}}, "a/../../b": {{"a/../../b", "x"}}, `"."`: {{".", "x"}},
		`zero\x00`: {{"zero\x00", "x"}}, "a part of 256 bytes": {{strings.Repeat("n", 256), "x"}},
		"1024 are the limit":              {{strings.Repeat("n/", 600), "x"}},
		`two blobs have the name "twice"`: {{"twice", "x"}, {"twice", "y"}},
		"it has a as a file":              {{"a/b/c", "x"}, {"a", "y"}},
	} {
		d := reg.pushArtifact(t, "names", "", nil, files...)
		_, err := s.Resolve(context.Background(), ask(reg.addr+"/names@"+d.Digest.String()))
		if messages.KindOf(err) != messages.Precondition || !strings.Contains(err.Error(), name) {
			t.Errorf("%v: error %v of kind %v, want %s", files, err, messages.KindOf(err), name)
		}
	}
}

func TestOfAListOfArtifactsThisMachinesIsTaken(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	other := reg.pushArtifact(t, "multi", "", nil, blobOf{"f", "other"})
	other.Platform = &ispec.Platform{OS: "linux", Architecture: "s390x"}
	mine := reg.pushArtifact(t, "multi", "", nil, blobOf{"f", "mine"})
	mine.Platform = reg.push(t, spec{repo: "multi"}).Platform
	list := reg.pushIndex(t, "multi", "v", other, mine)
	s := open(t, reg, nil)
	a := pull(t, s, ask(reg.addr+"/multi:v"))
	wantFiles(t, shown(t, s, a.ID), blobOf{"f", "mine"})
	if want := reg.addr + "/multi@" + list.String(); a.ID != mine.Digest.Encoded() || !slices.Equal(a.RepoDigests, []string{want}) {
		t.Errorf("got %+v, want %s", a, want)
	}
}

func TestATagMovesBetweenImagesAndArtifacts(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	s := open(t, reg, nil)
	ref := reg.addr + "/moving:v"
	owner := func(want string) {
		t.Helper()
		list, err := s.List(context.Background())
		ok(t, err)
		var owners []string
		for _, image := range list {
			if slices.Contains(image.RepoTags, ref) {
				owners = append(owners, image.ID)
			}
			if len(image.RepoDigests) == 0 {
				t.Errorf("%s has lost every name: %+v", image.ID, image)
			}
		}
		if !slices.Equal(owners, []string{want}) {
			t.Errorf("the tag is of %v, want %s", owners, want)
		}
	}
	reg.pushArtifact(t, "moving", "v", nil, blobOf{"f", "one"})
	first := pull(t, s, ask(ref))
	owner(first.ID)
	reg.pushArtifact(t, "moving", "v", nil, blobOf{"f", "two"})
	second := pull(t, s, ask(ref))
	owner(second.ID)
	reg.push(t, spec{repo: "moving", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	owner(pull(t, s, ask(ref)).ID)
	reg.pushArtifact(t, "moving", "v", nil, blobOf{"f", "one"})
	owner(pull(t, s, ask(ref)).ID)
	wantFiles(t, shown(t, s, first.ID), blobOf{"f", "one"})
}

func TestALayerThatIsAnArtifactsFileTooIsFetchedForIt(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	s := open(t, reg, nil)
	plain := layerOf(t, "a", "") // its blob's digest is the stored layer's own
	reg.push(t, spec{repo: "app", tag: "v", layers: []packed{plain}})
	pull(t, s, ask(reg.addr+"/app:v"))
	reg.pushArtifact(t, "app", "files", nil, blobOf{"layer.tar", string(plain.blob)})
	a := pull(t, s, ask(reg.addr+"/app:files"))
	wantFiles(t, shown(t, s, a.ID), blobOf{"layer.tar", string(plain.blob)})
}

func TestADamagedArtifactIsNotMountedAndPulledAgain(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.pushArtifact(t, "a", "v", nil, blobOf{"f", "content"}, blobOf{"g", "more"})
	s := open(t, reg, nil)
	a := pull(t, s, ask(reg.addr+"/a:v"))
	ok(t, os.Truncate(s.artifacts.files(a.ID)+"/f", 3))
	if _, err := s.LayerDirs(context.Background(), a.ID); messages.KindOf(err) != messages.Internal || !strings.Contains(err.Error(), "pull it again") {
		t.Errorf("a truncated file: %v", err)
	}
	pull(t, s, ask(reg.addr+"/a:v"))
	wantFiles(t, shown(t, s, a.ID), blobOf{"f", "content"}, blobOf{"g", "more"})
	// A record that a person has broken is no reason not to start.
	write(t, s.artifacts.dir+"/"+a.ID+"/record.json", []byte("{"))
	again := reopened(t, s)
	if list, err := again.List(context.Background()); err != nil || len(list) != 0 {
		t.Errorf("with a broken record: %v, %v", list, err)
	}
	pull(t, again, ask(reg.addr+"/a:v"))
	wantFiles(t, shown(t, again, a.ID), blobOf{"f", "content"}, blobOf{"g", "more"})
}

func TestWhatAKilledDaemonHasLeftOfArtifactsGoes(t *testing.T) {
	s := open(t, nil, nil)
	write(t, s.artifacts.dir+"/.new-1/files/f", []byte("half"))
	write(t, s.artifacts.dir+"/.old-1/artifact/files/f", []byte("half"))
	write(t, s.loadDir()+"/oci1/blobs/x", []byte("half"))
	again := reopened(t, s)
	wantNoArtifacts(t, again)
	wantNoTemporary(t, again)
}

func TestAFailedPullOfAnArtifactLeavesNothing(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	big := strings.Repeat("x", 3<<20)
	reg.pushArtifact(t, "a", "v", nil, blobOf{"f", big}, blobOf{"g", big + "y"})
	s := open(t, reg, func(c *Config) { c.BlobDir = tmpfs(t, "8m"); c.GraphRoot = tmpfs(t, "4m") + "/root" })
	_, err := conformance.Pull(context.Background(), s, ask(reg.addr+"/a:v"))
	if messages.KindOf(err) != messages.NoSpace || !strings.Contains(err.Error(), s.cfg.GraphRoot) {
		t.Errorf("error %v of kind %v", err, messages.KindOf(err))
	}
	wantNoArtifacts(t, s)
}

func TestTheBlobCacheMayBeOnAnotherFileSystem(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.pushArtifact(t, "a", "v", nil, blobOf{"f", "content"})
	s := open(t, reg, func(c *Config) { c.BlobDir = tmpfs(t, "1m") })
	wantFiles(t, shown(t, s, pull(t, s, ask(reg.addr+"/a:v")).ID), blobOf{"f", "content"})
}

func TestArtifactsArePulledButNotMountedWhenThatIsOff(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.pushArtifact(t, "a", "v", nil, blobOf{"f", "content"})
	s := open(t, reg, func(c *Config) { c.NoArtifactMounts = true })
	a := pull(t, s, ask(reg.addr+"/a:v"))
	_, err := s.LayerDirs(context.Background(), a.ID)
	if messages.KindOf(err) != messages.ImageVolumeMountFailed || !strings.Contains(err.Error(), "oci_artifact_mount_support") {
		t.Errorf("error %v of kind %v", err, messages.KindOf(err))
	}
}

func TestTheSignaturePolicyHoldsForArtifacts(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.pushArtifact(t, "a", "v", nil, blobOf{"f", "content"})
	s := open(t, reg, nil)
	write(t, s.cfg.PolicyPath, []byte(`{"default":[{"type":"reject"}]}`))
	_, err := s.Resolve(context.Background(), ask(reg.addr+"/a:v"))
	if messages.KindOf(err) != messages.SignatureValidationFailed {
		t.Errorf("error %v of kind %v", err, messages.KindOf(err))
	}
}

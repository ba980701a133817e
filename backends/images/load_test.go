package images

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/pkg/blobinfocache/none"
	"go.podman.io/image/v5/types"
)

// exported copies as people do who carry images to a node without a network.
func exported(t *testing.T, from, to string, options ...string) {
	t.Helper()
	skopeo(t, append([]string{"copy", "--insecure-policy", "--quiet", "--src-tls-verify=false", from, to}, options...)...)
}

func load(source, ref string) backends.PullRequest {
	return backends.PullRequest{Source: source, Ref: ref}
}

// twoApps is a registry with app:one and app:two and a directory for archives.
func twoApps(t *testing.T) (dir, repo string, ids [2]string) {
	t.Helper()
	reg := startRegistry(t, registryOptions{})
	repo = reg.addr + "/app"
	s := open(t, reg, nil)
	for i, tag := range []string{"one", "two"} {
		reg.push(t, spec{repo: "app", tag: tag, layers: []packed{layerOf(t, "base", "gzip"), layerOf(t, tag, "gzip")}})
		ids[i] = pull(t, s, ask(repo+":"+tag)).ID
	}
	return tmpfs(t, "16m"), repo, ids
}

// wantNoTemporary checks that nothing unpacked is left of an archive.
func wantNoTemporary(t *testing.T, s *Store) {
	t.Helper()
	left, err := os.ReadDir(s.loadDir())
	if err != nil || len(left) > 0 {
		t.Errorf("left in %s: %v, %v", s.loadDir(), left, err)
	}
}

func TestImagesAreLoadedFromEveryFormat(t *testing.T) {
	dir, repo, ids := twoApps(t)
	exported(t, "docker://"+repo+":one", "docker-archive:"+dir+"/d.tar:"+repo+":one", "--additional-tag", "example.com/other:v")
	gzipped(t, dir+"/d.tar", dir+"/d.tar.gz")
	exported(t, "docker://"+repo+":one", "oci:"+dir+"/o:"+repo+":one")
	exported(t, "docker://"+repo+":one", "oci-archive:"+dir+"/o.tar:"+repo+":one")
	gzipped(t, dir+"/o.tar", dir+"/o.tar.gz")
	exported(t, "docker://"+repo+":one", "oci:"+dir+"/bare:v1")
	exported(t, "docker://"+repo+":one", "dir:"+dir+"/dir")
	for _, c := range []struct {
		source, ref string
		tags        []string
	}{
		{"docker-archive:" + dir + "/d.tar", "", []string{repo + ":one", "example.com/other:v"}},
		{"docker-archive:" + dir + "/d.tar:example.com/other:v", "", []string{"example.com/other:v"}},
		{"docker-archive:" + dir + "/d.tar.gz", "mine:v", []string{"docker.io/library/mine:v"}},
		{"oci:" + dir + "/o", "", []string{repo + ":one"}},
		{"oci-archive:" + dir + "/o.tar", "", []string{repo + ":one"}},
		{"oci-archive:" + dir + "/o.tar.gz", "", []string{repo + ":one"}},
		{"oci:" + dir + "/bare:v1", "mine", []string{"docker.io/library/mine:latest"}},
		{"oci:" + dir + "/bare:@0", "mine", []string{"docker.io/library/mine:latest"}},
		{"dir:" + dir + "/dir", "mine", []string{"docker.io/library/mine:latest"}},
	} {
		s := open(t, nil, nil)
		image := pull(t, s, load(c.source, c.ref))
		slices.Sort(c.tags)
		if image.ID != ids[0] || !slices.Equal(image.RepoTags, c.tags) {
			t.Errorf("%s: got %s %v, want %s %v", c.source, image.ID, image.RepoTags, ids[0], c.tags)
		}
		dirs, err := s.LayerDirs(context.Background(), image.ID)
		ok(t, err)
		data, err := os.ReadFile(filepath.Join(dirs[0], "one"))
		if len(dirs) != 2 || err != nil || string(data) != "content of one" {
			t.Errorf("%s: layers %v, %q, %v", c.source, dirs, data, err)
		}
		wantNoTemporary(t, s)
	}
}

func gzipped(t *testing.T, from, to string) {
	t.Helper()
	file, err := os.Create(to)
	ok(t, err)
	defer file.Close()
	cmd := exec.Command("gzip", "-c", from)
	cmd.Stdout = file
	ok(t, cmd.Run())
}

func TestOfSeveralImagesInAnArchiveTheNamedOneIsLoaded(t *testing.T) {
	dir, repo, ids := twoApps(t)
	for _, tag := range []string{"one", "two"} {
		exported(t, "docker://"+repo+":"+tag, "oci:"+dir+"/o:"+repo+":"+tag)
	}
	tarOf(t, dir+"/o", dir+"/o.tar")
	twoInOne(t, dir, repo)
	for _, source := range []string{"docker-archive:" + dir + "/two.tar", "oci:" + dir + "/o", "oci-archive:" + dir + "/o.tar"} {
		s := open(t, nil, nil)
		_, err := s.Resolve(context.Background(), load(source, ""))
		if messages.KindOf(err) != messages.Invalid || !strings.Contains(err.Error(), repo+":one, "+repo+":two") {
			t.Errorf("%s, none named: %v", source, err)
		}
		if _, err := s.Resolve(context.Background(), load(source, "mine:v")); messages.KindOf(err) != messages.Invalid {
			t.Errorf("%s, a new name for one of two: %v", source, err)
		}
		_, err = s.Resolve(context.Background(), load(source+":"+repo+":three", ""))
		if messages.KindOf(err) != messages.NotFound || !strings.Contains(err.Error(), repo+":two") {
			t.Errorf("%s, one that is not in it: %v", source, err)
		}
		for _, r := range []backends.PullRequest{load(source+":"+repo+":two", ""), load(source, repo+":two"), load(source+":"+repo+":two", "mine:v")} {
			if image := pull(t, s, r); image.ID != ids[1] {
				t.Errorf("%s as %q: got %s, want %s", r.Source, r.Ref, image.ID, ids[1])
			}
		}
		if list, err := s.List(context.Background()); err != nil || len(list) != 1 || len(list[0].RepoTags) != 2 {
			t.Errorf("%s: list %+v, %v", source, list, err)
		}
		wantNoTemporary(t, s)
	}
}

// twoInOne makes dir/two.tar of both apps, as "docker save one two" does:
// skopeo writes only one image to an archive.
func twoInOne(t *testing.T, dir, repo string) {
	t.Helper()
	tree := dir + "/tree"
	ok(t, os.MkdirAll(tree, 0o700))
	var manifests []string
	for _, tag := range []string{"one", "two"} {
		single := dir + "/" + tag + ".tar"
		exported(t, "docker://"+repo+":"+tag, "docker-archive:"+single+":"+repo+":"+tag)
		if out, err := exec.Command("tar", "-xf", single, "-C", tree).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		data, err := os.ReadFile(tree + "/manifest.json")
		ok(t, err)
		manifests = append(manifests, strings.Trim(strings.TrimSpace(string(data)), "[]"))
	}
	write(t, tree+"/manifest.json", []byte("["+strings.Join(manifests, ",")+"]"))
	tarOf(t, tree, dir+"/two.tar")
}

func tarOf(t *testing.T, tree, to string) {
	t.Helper()
	if out, err := exec.Command("tar", "-cf", to, "-C", tree, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestWhatCannotBeLoadedIsRefusedClearly(t *testing.T) {
	dir, repo, _ := twoApps(t)
	exported(t, "docker://"+repo+":one", "dir:"+dir+"/dir")
	exported(t, "docker://"+repo+":one", "oci:"+dir+"/bare:v1")
	exported(t, "docker://"+repo+":one", "oci-archive:"+dir+"/o.tar")
	write(t, dir+"/noise", []byte("neither tar nor anything"))
	ok(t, os.Mkdir(dir+"/empty", 0o700))
	for _, c := range []struct {
		source, ref, want string
		kind              messages.Kind
	}{
		{"docker://" + repo + ":one", "", "docker-archive:, oci:", messages.Invalid},
		{"docker-daemon:app", "", "docker-archive:, oci:", messages.Invalid},
		{"dir:relative", "mine", "absolute path", messages.Invalid},
		{"dir:" + dir + "/dir", "", "--name", messages.Invalid},
		{"oci:" + dir + "/bare", "", "--name", messages.Invalid},
		{"oci-archive:" + dir + "/o.tar", "", "--name", messages.Invalid},
		{"oci:" + dir + "/bare", "UPPER", "UPPER", messages.Invalid},
		{"docker-archive:" + dir + "/gone", "", "no such file", messages.NotFound},
		{"oci-archive:" + dir + "/gone", "mine", "no such file", messages.NotFound},
		{"oci:" + dir + "/empty", "mine", "no such file", messages.NotFound},
		{"dir:" + dir + "/empty", "mine", "no such file", messages.NotFound},
		{"docker-archive:" + dir + "/noise", "mine", "noise", messages.Invalid},
		{"oci-archive:" + dir + "/noise", "mine", "noise", messages.Invalid},
		{"docker-archive:" + dir + "/o.tar", "mine", "manifest.json", messages.NotFound},
	} {
		s := open(t, nil, nil)
		_, err := s.Resolve(context.Background(), load(c.source, c.ref))
		if messages.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), strings.TrimPrefix(c.source, "oci:")) && c.ref != "UPPER" {
			t.Errorf("%s as %q: error %v of kind %v, want %v", c.source, c.ref, err, messages.KindOf(err), c.kind)
		}
	}
}

func TestALyingArchiveLeavesNothing(t *testing.T) {
	dir, repo, _ := twoApps(t)
	exported(t, "docker://"+repo+":one", "oci:"+dir+"/o:"+repo+":one")
	exported(t, "docker://"+repo+":one", "docker-archive:"+dir+"/d.tar:"+repo+":one")
	changeOne(t, dir+"/o/blobs/sha256")
	tree := dir + "/tree"
	ok(t, os.Mkdir(tree, 0o700))
	if out, err := exec.Command("tar", "-xf", dir+"/d.tar", "-C", tree).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	layers, err := filepath.Glob(tree + "/*.tar")
	ok(t, err)
	for _, layer := range layers {
		if info, err := os.Lstat(layer); err == nil && info.Mode().IsRegular() {
			data, err := os.ReadFile(layer)
			ok(t, err)
			ok(t, os.WriteFile(layer, []byte(strings.Replace(string(data), "content of", "malware in", 1)), 0o600))
		}
	}
	tarOf(t, tree, dir+"/lie.tar")
	for _, source := range []string{"oci:" + dir + "/o", "docker-archive:" + dir + "/lie.tar"} {
		s := open(t, nil, nil)
		m, err := s.Resolve(context.Background(), load(source, ""))
		ok(t, err)
		var failed error
		for _, l := range m.Layers {
			if err := s.Fetch(context.Background(), load(source, ""), m, l, nil); err != nil {
				failed = err
			}
		}
		if failed == nil || !strings.Contains(failed.Error(), "wrong digest") {
			t.Errorf("%s: %v", source, failed)
		}
		wantNothing(t, s)
	}
}

// changeOne changes the last byte of a layer in an OCI layout.
func changeOne(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	ok(t, err)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		ok(t, err)
		if data[0] != '{' {
			data[len(data)-1]++
			ok(t, os.WriteFile(filepath.Join(dir, e.Name()), data, 0o600))
			return
		}
	}
	t.Fatal("there is no layer to change")
}

func TestAnArtifactIsLoadedFromALayout(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	pushed := reg.pushArtifact(t, "a", "v", nil, blobOf{"dir/f", "content"})
	dir := tmpfs(t, "4m")
	exported(t, "docker://"+reg.addr+"/a:v", "oci:"+dir+"/o:example.com/a:v")
	s := open(t, nil, nil)
	a := pull(t, s, load("oci:"+dir+"/o", ""))
	if a.ID != pushed.Digest.Encoded() || !slices.Equal(a.RepoTags, []string{"example.com/a:v"}) {
		t.Errorf("got %+v", a)
	}
	wantFiles(t, shown(t, s, a.ID), blobOf{"dir/f", "content"})
}

func TestThePolicyOfTheTransportHolds(t *testing.T) {
	dir, repo, _ := twoApps(t)
	exported(t, "docker://"+repo+":one", "oci:"+dir+"/o:"+repo+":one")
	s := open(t, nil, nil)
	policy := func(scopes string) error {
		write(t, s.cfg.PolicyPath, []byte(`{"default":[{"type":"insecureAcceptAnything"}],"transports":{`+scopes+`}}`))
		_, err := s.Resolve(context.Background(), load("oci:"+dir+"/o", ""))
		return err
	}
	if err := policy(`"oci":{"` + dir + `":[{"type":"reject"}]}`); messages.KindOf(err) != messages.SignatureValidationFailed {
		t.Errorf("rejected below %s: %v", dir, err)
	}
	ok(t, policy(`"docker":{"":[{"type":"reject"}]},"oci":{"/elsewhere":[{"type":"reject"}]}`))
}

func TestAnArchiveIsClosedWhenIdleAndOpenedAgain(t *testing.T) {
	dir, repo, ids := twoApps(t)
	exported(t, "docker://"+repo+":one", "oci-archive:"+dir+"/o.tar:"+repo+":one")
	s := open(t, nil, nil)
	r := load("oci-archive:"+dir+"/o.tar", "")
	m, err := s.Resolve(context.Background(), r)
	ok(t, err)
	res, err := opaque(m)
	ok(t, err)
	source := res.source.(*idleSource)
	busy, _, err := source.GetBlob(context.Background(), types.BlobInfo{Digest: digest.Digest(m.Layers[0].Digest), Size: -1}, none.NoCache)
	ok(t, err)
	ok(t, source.Close())
	if left, _ := os.ReadDir(s.loadDir()); len(left) != 1 {
		t.Errorf("while a layer is read there is %v", left)
	}
	source.limit = time.Millisecond
	ok(t, busy.Close())
	for range 500 {
		if left, _ := os.ReadDir(s.loadDir()); len(left) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	wantNoTemporary(t, s)
	for _, l := range m.Layers {
		ok(t, s.Fetch(context.Background(), r, m, l, nil))
	}
	image, err := s.Commit(context.Background(), r, m)
	if err != nil || image.ID != ids[0] {
		t.Errorf("after it was closed: %v, %v", image.ID, err)
	}
	wantNoTemporary(t, s)
}

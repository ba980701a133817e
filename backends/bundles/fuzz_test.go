package bundles

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// fuzzBackend is one for all inputs: to find out what the node has takes much
// longer than to write a bundle.
var fuzzBackend = sync.OnceValues(func() (*Backend, error) {
	n, err := readNode()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "fuzz-bundles")
	if err != nil {
		return nil, err
	}
	return newOn(n, Config{Root: dir, Log: quiet(), PidsLimit: 1024})
})

// FuzzImageConfig makes containers of images that a stranger wrote: the
// configuration, the accounts, and a link in the root. Whatever they say, the
// answer is a bundle the kernel can be given or an error that is the request's
// and not ours, and nothing is made outside of the root.
func FuzzImageConfig(f *testing.F) {
	const groups = "wheel:x:10:root,app\n"
	f.Add("app:wheel", passwd, groups, "A=b\nPATH=/bin", "/srv", "/data\n/data/below", "SIGTERM", "link", "/etc")
	f.Add("", "", "", "", "", "", "", "etc/passwd", "passwd")
	f.Add("0:0", "root:x:0:0:root:/:\n", "", "=", "../../..", "../../escape", "SIGRTMIN+99", "link", "../../../..")
	f.Add("4294967295:-1", "a:x:-1:99999999999999999999::\n", "g:x:-5:a\n", "A\x00=b", "link/made", "/link/made\nlink/../..", "-9", "link", "/proc/self/root/tmp")
	f.Add("#", "#:::::::::\n:\n\r\n", "#:x:1:\n", "A", strings.Repeat("a/", 3000), "/"+strings.Repeat("b", 300), "RTMAX-40", "etc", "/nowhere")
	f.Fuzz(func(t *testing.T, user, passwd, group, env, dir, volumes, signal, link, target string) {
		outer := t.TempDir()
		r := request(t)
		moved := filepath.Join(outer, "root")
		if err := os.Rename(r.Rootfs, moved); err != nil {
			t.Fatal(err)
		}
		r.Rootfs = moved
		put(t, filepath.Join(r.Rootfs, "etc/passwd"), passwd)
		put(t, filepath.Join(r.Rootfs, "etc/group"), group)
		makeLink(r.Rootfs, link, target)
		r.Image = messages.ImageConfig{
			User: user, Env: strings.Split(env, "\n"), WorkingDir: dir, Volumes: strings.Split(volumes, "\n"),
			StopSignal: signal, Cmd: []string{"/bin/true"},
		}
		r.Config.Command = nil
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		b, err := fuzzBackend()
		if err != nil {
			t.Fatal(err)
		}
		out, err := b.Write(ctx, r)
		defer os.RemoveAll(b.dir(r.Pod, r.Container))
		entries, _ := os.ReadDir(outer)
		if len(entries) != 1 {
			t.Fatalf("beside the root: %v", entries)
		}
		if err != nil {
			if kind := messages.KindOf(err); kind != messages.Invalid {
				t.Fatalf("kind %v: %v", kind, err)
			}
			return
		}
		data, err := os.ReadFile(filepath.Join(out.Dir, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		var spec specs.Spec
		if err := json.Unmarshal(data, &spec); err != nil {
			t.Fatal(err)
		}
		checkProcess(t, spec.Process)
	})
}

// makeLink puts a link into a root, in place of what is there, where it can.
func makeLink(root, name, target string) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return
	}
	defer r.Close()
	_ = r.RemoveAll(name)
	_ = r.Symlink(target, name)
}

func checkProcess(t *testing.T, p *specs.Process) {
	t.Helper()
	if !filepath.IsAbs(p.Cwd) || filepath.Clean(p.Cwd) != p.Cwd || len(p.Cwd) >= unix.PathMax {
		t.Errorf("working directory %q", p.Cwd)
	}
	for _, v := range p.Env {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" || strings.ContainsRune(v, 0) {
			t.Errorf("variable %q", v)
		}
	}
	for _, gid := range append(p.User.AdditionalGids, p.User.UID, p.User.GID) {
		if !validID(int64(gid)) {
			t.Errorf("%+v", p.User)
		}
	}
	if len(p.User.AdditionalGids) > maxGroups {
		t.Errorf("%d groups", len(p.User.AdditionalGids))
	}
}

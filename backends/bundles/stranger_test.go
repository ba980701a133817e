package bundles

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/messages"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// allocated runs f and says how many bytes it took from the heap in all.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestAPasswdOf100MBIsRefusedWithoutBeingRead(t *testing.T) {
	for name, fill := range map[string]func(*testing.T, *os.File){
		"written": func(t *testing.T, f *os.File) {
			line := bytes.Repeat([]byte("user:x:1:1::/:\n"), 1<<16)
			for n := 0; n < 100<<20; n += len(line) {
				if _, err := f.Write(line); err != nil {
					t.Fatal(err)
				}
			}
		},
		"sparse": func(t *testing.T, f *os.File) {
			if err := f.Truncate(1 << 40); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for _, file := range []string{"passwd", "group"} {
			t.Run(name+" "+file, func(t *testing.T) {
				b, r := newTest(t, testNode(t)), request(t)
				f, err := os.Create(filepath.Join(r.Rootfs, "etc", file))
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				fill(t, f)
				r.Image.User = "app"
				if n := allocated(func() { wantError(t, b, r, messages.Invalid, "/etc/"+file+" of the image has", "bytes") }); n > 4<<20 {
					t.Errorf("%d bytes of memory for it", n)
				}
			})
		}
	}
}

// The largest file that is read has many more lines than bytes are worth
// keeping: an entry of a line "a" takes fifty times its size.
func TestThePasswdOfAMillionUsersCostsLittleMemory(t *testing.T) {
	b, r := newTest(t, testNode(t)), request(t)
	put(t, filepath.Join(r.Rootfs, "etc/passwd"), strings.Repeat("a\n", maxAccountFile/2-100)+passwd)
	put(t, filepath.Join(r.Rootfs, "etc/group"), strings.Repeat("a\n", maxAccountFile/2-100)+group)
	r.Image.User = "app:wheel"
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	spec, _ := written(t, b, r)
	runtime.ReadMemStats(&after)
	grown := int64(after.HeapSys) - int64(before.HeapSys) // its peak: little of it is given back
	t.Logf("the heap grew by %d bytes", grown)
	if gid := spec.Process.User.GID; gid != 10 || grown > 64<<20 {
		t.Errorf("group %d, want 10; the heap grew by %d bytes", gid, grown)
	}
}

func TestAUserInMoreGroupsThanLinuxAllowsIsRefused(t *testing.T) {
	b, r := newTest(t, testNode(t)), request(t)
	var many strings.Builder
	for i := range 300_000 {
		fmt.Fprintf(&many, "::%d:app\n", i)
	}
	put(t, filepath.Join(r.Rootfs, "etc/group"), many.String())
	r.Image.User = "app"
	wantError(t, b, r, messages.Invalid, "65536", "groups")
}

func TestAPasswdThatIsALinkToItselfIsRefused(t *testing.T) {
	b, r := newTest(t, testNode(t)), request(t)
	link := filepath.Join(r.Rootfs, "etc/passwd")
	_ = os.Remove(link)
	if err := os.Symlink("passwd", link); err != nil {
		t.Fatal(err)
	}
	wantError(t, b, r, messages.Invalid, "/etc/passwd of the image")
}

func TestALineThatIsTooLongIsRefused(t *testing.T) {
	b, r := newTest(t, testNode(t)), request(t)
	put(t, filepath.Join(r.Rootfs, "etc/passwd"), strings.Repeat("x", 1<<20))
	wantError(t, b, r, messages.Invalid, "/etc/passwd of the image", "too long")
}

// CVE-2024-40635, CVE-2026-46680 (containerd): a user's number that is too large
// became another one, root's, or a name that the image gives to root.
func TestAUserIDThatIsTooLargeIsNotAnotherUser(t *testing.T) {
	b := newTest(t, testNode(t))
	for _, id := range []string{"4294967296", "2147483648", "18446744073709551616", "4294967296:0", "0:4294967296", "-1", "0x100000000"} {
		r := request(t)
		r.Image.User = id
		wantError(t, b, r, messages.Invalid, "USER")
	}
	for _, line := range []string{"big:x:4294967296:0::/:\n", "big:x:0:4294967296::/:\n", "big:x:-1:0::/:\n"} {
		r := request(t)
		put(t, filepath.Join(r.Rootfs, "etc/passwd"), line)
		r.Image.User = "big"
		wantError(t, b, r, messages.Invalid, "big")
	}
	r := request(t)
	sc(&r).RunAsUser = &cri.Int64Value{Value: 1 << 32}
	wantError(t, b, r, messages.Invalid, "4294967296")
	// A name of digits, given by the image to root, is no way round runAsNonRoot.
	put(t, filepath.Join(r.Rootfs, "etc/passwd"), "4294967296:x:0:0::/:\n")
	sc(&r).RunAsUser = nil
	r.Image.User = "4294967296"
	wantError(t, b, r, messages.Invalid, "4294967296")
}

package monitor_test

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// restorable is a container to be made of images in which a process has the
// capabilities: as many of CRIU's as are looked at before CRIU is run.
func restorable(n *node, capabilities uint32) backends.ProcessRequest {
	n.t.Helper()
	if _, err := exec.LookPath("criu"); err != nil {
		n.t.Skip("needs criu")
	}
	r := n.container(shell("echo it has begun anew; sleep 100"))
	r.Images = n.t.TempDir()
	images := filepath.Join(r.Images, "checkpoint")
	if err := os.Mkdir(images, 0o700); err != nil {
		n.t.Fatal(err)
	}
	creds := binary.AppendUvarint([]byte{10 << 3}, uint64(capabilities)) // cap_prm
	creds = append(creds, 18<<3&0x7f|0x80, 18<<3>>7, 1)                  // no_new_privs
	thread := append(append([]byte{10<<3 | 2}, byte(len(creds))), creds...)
	core := append([]byte{5<<3 | 2, byte(len(thread))}, thread...)
	image := append(binary.LittleEndian.AppendUint32(make([]byte, 8), uint32(len(core))), core...)
	for name, data := range map[string][]byte{"core-1.img": image, "inventory.img": nil, "descriptors.json": []byte("[]")} {
		if err := os.WriteFile(filepath.Join(images, name), data, 0o600); err != nil {
			n.t.Fatal(err)
		}
	}
	return r
}

func TestARestoredContainerWaitsForItsStartAndCanBeKilledBefore(t *testing.T) {
	n := newNode(t)
	r := restorable(n, 0)
	for range 2 {
		st, err := n.Create(n.ctx(), r)
		if err != nil || st.Status != messages.ProcessCreated || st.Pid != 0 {
			t.Fatalf("created: %+v, %v", st, err)
		}
	}
	if err := n.Signal(n.ctx(), r.Pod, r.Container, "SIGTERM", false); err != nil {
		t.Error(err)
	}
	if st, err := n.State(n.ctx(), r.Pod, r.Container); err != nil || st.Status != messages.ProcessCreated {
		t.Errorf("after SIGTERM: %+v, %v", st, err)
	}
	if err := n.Signal(n.ctx(), r.Pod, r.Container, "SIGKILL", true); err != nil {
		t.Error(err)
	}
	if st := n.exit(r); st.ExitCode != 137 {
		t.Errorf("its end: %+v", st)
	}
	if err := n.Delete(n.ctx(), r.Pod, r.Container); err != nil {
		t.Error(err)
	}
}

func TestARestoreThatFailsNeverRunsTheCommandAnew(t *testing.T) {
	n := newNode(t)
	r := restorable(n, 0)
	if _, err := n.Create(n.ctx(), r); err != nil {
		t.Fatal(err)
	}
	_, err := n.Start(n.ctx(), r.Pod, r.Container)
	wantKind(t, err, messages.Precondition, "criu cannot restore it")
	if st, err := n.State(n.ctx(), r.Pod, r.Container); err != nil || st.Status != messages.ProcessExited || st.ExitCode != 128 {
		t.Errorf("afterwards: %+v, %v", st, err)
	}
	if said := n.log(r); said != "" {
		t.Errorf("it said %q", said)
	}
	for range 2 {
		if err := n.Delete(n.ctx(), r.Pod, r.Container); err != nil {
			t.Error(err)
		}
	}
}

func TestImagesWithMoreRightsAreRefusedAtCreate(t *testing.T) {
	n := newNode(t)
	_, err := n.Create(n.ctx(), restorable(n, 1<<21)) // CAP_SYS_ADMIN
	wantKind(t, err, messages.Precondition, "capabilities")
	if held, err := n.Held(n.ctx()); err != nil || len(held) > 0 {
		t.Errorf("left behind: %v, %v", held, err)
	}
}

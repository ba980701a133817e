package fake_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestAPodThatIsRemovedLeavesTheNodeEmpty(t *testing.T) {
	n := fake.New(fake.Config{})
	connect(t, n)
	start(t, n, id(1), id(2))
	if left := n.Empty(); len(left) < 9 {
		t.Errorf("a pod holds %d things:\n%s", len(left), strings.Join(left, "\n"))
	}
	remove(t, n, id(1), id(2))
	wantEmpty(t, n)
}

func TestWhatIsTakenFromALivingProcessIsSeen(t *testing.T) {
	take := map[string]func(*backends.Node) error{
		"root":      func(b *backends.Node) error { return b.Rootfs.Unmount(t.Context(), id(1), id(2)) },
		"bundle":    func(b *backends.Node) error { return b.Bundles.Remove(t.Context(), id(1), id(2)) },
		"namespace": func(b *backends.Node) error { return b.Namespaces.Unpin(t.Context(), id(1)) },
		"/dev/shm":  func(b *backends.Node) error { return b.Files.Remove(t.Context(), id(1)) },
		"address":   func(b *backends.Node) error { return b.Network.GC(t.Context(), func() []string { return nil }) },
		"container 000000000000: a root without a record": func(b *backends.Node) error {
			return b.Journal.Remove(t.Context(), backends.Key{Pod: id(1), Container: id(2)})
		},
		"container : an address without a record": func(b *backends.Node) error { return b.Journal.Remove(t.Context(), backends.Key{Pod: id(1)}) },
		"which is gone": func(b *backends.Node) error {
			all, err := b.Images.List(t.Context())
			ok(t, err)
			return b.Images.Remove(t.Context(), all[0].ID)
		},
	}
	for what, f := range take {
		n := fake.New(fake.Config{})
		connect(t, n)
		start(t, n, id(1), id(2))
		ok(t, f(n.Backends()))
		if wrong := strings.Join(n.Invariants(), "\n"); !strings.Contains(wrong, what) {
			t.Errorf("%s was taken: %q", what, wrong)
		}
	}
}

func TestACgroupWithAContainerInItIsBusy(t *testing.T) {
	n := fake.New(fake.Config{})
	connect(t, n)
	start(t, n, id(1), id(2))
	if err := n.Backends().Cgroups.Remove(t.Context(), id(1)); err == nil {
		t.Error("it was removed")
	}
}

func TestAProcessNeedsWhatItIsMadeOf(t *testing.T) {
	n := fake.New(fake.Config{})
	connect(t, n)
	create(t, n, id(1), id(2))
	b := n.Backends()
	ok(t, b.Runtime.Delete(t.Context(), id(1), id(2)))
	again := func() error {
		_, err := b.Runtime.Create(t.Context(), backends.ProcessRequest{Pod: id(1), Container: id(2), Bundle: "/var/lib/troupe/pods/" + id(1) + "/containers/" + id(2)})
		return err
	}
	ok(t, again())
	ok(t, b.Runtime.Delete(t.Context(), id(1), id(2)))
	ok(t, b.Namespaces.Unpin(t.Context(), id(1)))
	wantKind(t, again(), messages.Precondition)
	_, err := b.Namespaces.Pin(t.Context(), backends.NamespaceRequest{Pod: id(1), Network: true, IPC: true, UTS: true})
	ok(t, err)
	wantKind(t, again(), messages.Precondition) // those are others
	ok(t, b.Rootfs.Unmount(t.Context(), id(1), id(2)))
	wantKind(t, again(), messages.Precondition)
	ok(t, b.Bundles.Remove(t.Context(), id(1), id(2)))
	wantKind(t, again(), messages.Precondition)
}

func TestAddressesAreHandedOutInTurnAndRunOut(t *testing.T) {
	n := fake.New(fake.Config{Addresses: 2, DualStack: true})
	b := n.Backends()
	attach := func(pod string) ([]string, error) {
		spaces, err := b.Namespaces.Pin(t.Context(), backends.NamespaceRequest{Pod: pod, Network: true})
		ok(t, err)
		got, err := b.Network.Attach(t.Context(), backends.NetworkRequest{Pod: pod, NetNS: spaces.Network})
		return got.IPs, err
	}
	first, err := attach(id(1))
	ok(t, err)
	if !slices.Equal(first, []string{"10.88.0.2", "fd00:88::2"}) {
		t.Errorf("got %v", first)
	}
	_, err = attach(id(2))
	ok(t, err)
	if _, err = attach(id(3)); err == nil || !strings.Contains(err.Error(), "no addresses available") {
		t.Errorf("got %v", err)
	}
	ok(t, b.Network.Detach(t.Context(), backends.NetworkRequest{Pod: id(1)}))
	third, err := attach(id(3))
	ok(t, err)
	if !slices.Equal(first, third) {
		t.Errorf("got %v", third)
	}
}

func TestAHostPortHasOneOwner(t *testing.T) {
	n := fake.New(fake.Config{})
	b := n.Backends()
	attach := func(pod string) error {
		spaces, err := b.Namespaces.Pin(t.Context(), backends.NamespaceRequest{Pod: pod, Network: true})
		ok(t, err)
		_, err = b.Network.Attach(t.Context(), backends.NetworkRequest{
			Pod: pod, NetNS: spaces.Network, PortMappings: []*runtime.PortMapping{{HostPort: 80, ContainerPort: 8080}},
		})
		return err
	}
	ok(t, attach(id(1)))
	wantKind(t, attach(id(2)), messages.Precondition)
	ok(t, b.Network.Detach(t.Context(), backends.NetworkRequest{Pod: id(1)}))
	ok(t, attach(id(2)))
}

func TestAMissingMountSourceAndAnUnknownUserAreNamed(t *testing.T) {
	n := fake.New(fake.Config{})
	b, img := n.Backends(), pull(t, n, "busybox")
	root, err := b.Rootfs.Mount(t.Context(), backends.RootfsRequest{Pod: id(1), Container: id(2), ImageID: img.ID})
	ok(t, err)
	n.SetMissing("/data", true)
	for want, c := range map[string]*runtime.ContainerConfig{
		"/data":   {Mounts: []*runtime.Mount{{ContainerPath: "/x", HostPath: "/data"}}},
		"nobody2": {Linux: &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{RunAsUsername: "nobody2"}}},
	} {
		_, err := b.Bundles.Write(t.Context(), backends.BundleRequest{Pod: id(1), Container: id(2), Config: c, Image: img.Config, Rootfs: root})
		wantKind(t, err, messages.Invalid)
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	n.SetMissing("/data", false)
}

func TestAHostileIdIsRefusedByAll(t *testing.T) {
	n := fake.New(fake.Config{})
	b := n.Backends()
	for _, err := range []error{
		b.Files.Remove(t.Context(), ".."), b.Namespaces.Unpin(t.Context(), "a/b"), b.Rootfs.Unmount(t.Context(), id(1), ""),
		b.Journal.Save(t.Context(), backends.Key{}, nil), b.Runtime.Delete(t.Context(), id(1), "../x"),
	} {
		wantKind(t, err, messages.Invalid)
	}
}

func TestATornRecordIsNamedAsLongAsWhatItStoodForIsThere(t *testing.T) {
	n := fake.New(fake.Config{})
	connect(t, n)
	start(t, n, id(1), id(2))
	if !n.TearRecord(backends.Key{Pod: id(1), Container: id(2)}) {
		t.Error("there is no record to tear")
	}
	for range 3 {
		records, damaged, err := n.Backends().Journal.Load(t.Context())
		ok(t, err)
		if len(records) != 1 || len(damaged) != 1 {
			t.Errorf("records %v, damaged %v", records, damaged)
		}
		wantNothingWrong(t, n)
	}
	remove(t, n, id(1), id(2))
	wantEmpty(t, n)
}

func TestARebootLeavesFilesAndAddresses(t *testing.T) {
	n := fake.New(fake.Config{})
	d := connect(t, n)
	start(t, n, id(1), id(2))
	n.Reboot()
	wantKind(t, <-d.ended, messages.Unavailable)
	if living := n.Living(); len(living) > 0 {
		t.Errorf("living: %v", living)
	}
	connect(t, n)
	st, err := n.Backends().Runtime.State(t.Context(), id(1), id(2))
	ok(t, err)
	if st.Status != messages.ProcessGone {
		t.Errorf("state %+v", st)
	}
	if left := strings.Join(n.Empty(), "\n"); !strings.Contains(left, "record") || !strings.Contains(left, "address") || strings.Contains(left, "mount") {
		t.Errorf("left:\n%s", left)
	}
	remove(t, n, id(1), id(2))
	wantEmpty(t, n)
}

func TestTheNetworkIsWatched(t *testing.T) {
	n := fake.New(fake.Config{})
	changed := make(chan struct{}, 1)
	go func() { _ = n.Backends().Network.Watch(t.Context(), func() { changed <- struct{}{} }) }()
	ok(t, n.Backends().Network.Status(t.Context()))
	for told := false; !told; { // the watcher may not be there yet
		n.SetNetwork(messages.Errorf(messages.Unavailable, "no configuration in /etc/cni/net.d"))
		select {
		case <-changed:
			told = true
		default:
		}
	}
	wantKind(t, n.Backends().Network.Status(t.Context()), messages.Unavailable)
}

func TestGCWaitsForNoAttachAndAsksWhoIsValidThen(t *testing.T) {
	s := newScript(t)
	n := fake.New(fake.Config{Hook: s})
	network := n.Backends().Network
	var during error
	s.on = func(c fake.Call) {
		if c.Method == "Attach" {
			s.on = nil
			during = network.GC(t.Context(), func() []string { t.Error("asked during an Attach"); return nil })
		}
	}
	_, _ = network.Attach(t.Context(), backends.NetworkRequest{Pod: id(1)})
	wantKind(t, during, messages.Busy)
	ok(t, network.GC(t.Context(), func() []string { return nil }))
}

func TestADaemonsDeathEndsItsConnectionAndNothingElse(t *testing.T) {
	n := fake.New(fake.Config{})
	d := connect(t, n)
	start(t, n, id(1), id(2))
	n.CrashDaemon()
	wantKind(t, <-d.ended, messages.Unavailable)
	n.Kill(id(2), 5, false)
	if st := connect(t, n).next(t, id(2), messages.ProcessExited); st.ExitCode != 5 {
		t.Errorf("the monitor told the next daemon %+v", st)
	}
}

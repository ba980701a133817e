package fake_test

import (
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/backends/fake"
)

func newNode() *backends.Node { return fake.New(fake.Config{}).Backends() }

func TestNamespacesConform(t *testing.T) {
	conformance.Namespaces(t, func(*testing.T) backends.Namespaces { return newNode().Namespaces })
}

func TestNetworkConforms(t *testing.T) {
	conformance.Network(t, func(t *testing.T) conformance.NetworkHarness {
		node := newNode()
		return conformance.NetworkHarness{
			Network: node.Network,
			Pin: func(pod string) string {
				got, err := node.Namespaces.Pin(t.Context(), backends.NamespaceRequest{Pod: pod, Network: true})
				ok(t, err)
				return got.Network
			},
			Unpin: func(pod string) { ok(t, node.Namespaces.Unpin(t.Context(), pod)) },
		}
	})
}

func TestFilesConform(t *testing.T) {
	conformance.Files(t, func(*testing.T) backends.Files { return newNode().Files })
}

func TestCgroupsConform(t *testing.T) {
	conformance.Cgroups(t, func(*testing.T) backends.Cgroups { return newNode().Cgroups })
}

func TestRootfsConforms(t *testing.T) {
	conformance.Rootfs(t, func(t *testing.T) conformance.RootfsHarness {
		n := fake.New(fake.Config{})
		return conformance.RootfsHarness{Rootfs: n.Backends().Rootfs, ImageID: pull(t, n, "busybox").ID}
	})
}

func TestVolumesConform(t *testing.T) {
	conformance.Volumes(t, func(t *testing.T) conformance.VolumesHarness {
		n := fake.New(fake.Config{})
		return conformance.VolumesHarness{Volumes: n.Backends().Volumes, ImageID: pull(t, n, "busybox").ID}
	})
}

func TestRuntimeConforms(t *testing.T) {
	var n *fake.Node
	var pods int
	conformance.Runtime(t, conformance.RuntimeHarness{
		New: func(*testing.T) backends.Runtime {
			n = fake.New(fake.Config{})
			return n.Backends().Runtime
		},
		Process: func(t *testing.T, p conformance.Program) backends.ProcessRequest {
			pods++
			commands := map[conformance.Program][]string{
				conformance.Sleeps: {"sleep", "infinity"}, conformance.Exits3: {"sh", "-c", "exit 3"}, conformance.Missing: {"/missing"},
			}
			return prepare(t, n, id(1000+pods), id(2000+pods), commands[p]...)
		},
		Echo: []string{"sh", "-c", "echo hello; exit 3"}, Hang: []string{"sleep", "infinity"}, Cat: []string{"cat"},
	})
}

func TestBundlesConform(t *testing.T) {
	conformance.Bundles(t, func(t *testing.T) conformance.BundlesHarness {
		n := fake.New(fake.Config{})
		n.SetMissing("/missing", true)
		img := pull(t, n, "busybox")
		return conformance.BundlesHarness{
			Bundles: n.Backends().Bundles, Missing: "/missing",
			Rootfs: func(t *testing.T, pod, container string) string {
				path, err := n.Backends().Rootfs.Mount(t.Context(), backends.RootfsRequest{Pod: pod, Container: container, ImageID: img.ID})
				ok(t, err)
				return path
			},
		}
	})
}

func TestImagesConform(t *testing.T) {
	conformance.Images(t, func(*testing.T) conformance.ImagesHarness {
		n := fake.New(fake.Config{})
		n.SetRegistry("down.example", true)
		return conformance.ImagesHarness{
			Images: n.Backends().Images, Unreachable: "down.example/app:1",
			Spoil: func(_ *testing.T, layer string) { n.SpoilLayer(layer) },
			Publish: func(_ *testing.T, repo, tag string, words ...string) (ref, digest string) {
				var layers []fake.Layer
				for _, word := range words {
					layers = append(layers, fake.Layer{Name: word, Size: 1000})
				}
				ref = "registry.example/" + repo + ":" + tag
				return ref, n.Publish(ref, fake.Image{Layers: layers})
			},
		}
	})
}

func TestJournalConforms(t *testing.T) {
	conformance.Journal(t, func(*testing.T) backends.Journal { return newNode().Journal })
}

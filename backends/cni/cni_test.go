package cni_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/cni"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestConformance(t *testing.T) {
	conformance.Network(t, func(t *testing.T) conformance.NetworkHarness {
		n := newNode(t)
		n.write("10-bridge.conflist", n.bridged("conformance"))
		dir := t.TempDir()
		return conformance.NetworkHarness{
			Network: n.backend(),
			Pin: func(pod string) string {
				pin(t, filepath.Join(dir, pod))
				return filepath.Join(dir, pod)
			},
			Unpin: func(pod string) { unpin(filepath.Join(dir, pod)) },
		}
	})
}

func TestDetachGivesTheAddressBackAlsoWhenConfigurationAndNamespaceHaveGone(t *testing.T) {
	n := newNode(t)
	n.write("10-bridge.conflist", n.bridged("gone"))
	b, r := n.backend(), n.pod()
	_, err := b.Attach(t.Context(), r)
	ok(t, err)
	if len(n.leases()) != 2 {
		t.Fatalf("leases %v", n.leases())
	}
	ok(t, os.Remove(filepath.Join(n.conf, "10-bridge.conflist")))
	unpin(r.NetNS)
	ok(t, os.WriteFile(r.NetNS, nil, 0o600)) // a pin without its mount: no namespace either
	if err := b.Status(t.Context()); messages.KindOf(err) != messages.Unavailable {
		t.Fatalf("status: %v", err)
	}
	ok(t, n.backend().Detach(t.Context(), backends.NetworkRequest{Pod: r.Pod})) // another daemon, which knows only the id
	if left := n.leases(); len(left) > 0 {
		t.Errorf("addresses not given back: %v", left)
	}
}

func TestAHalfDoneAddIsTakenBackByDetachOrByTheNextAttach(t *testing.T) {
	n := newNode(t)
	n.script("broken", `[ "$CNI_COMMAND" != ADD ] || [ -e `+n.store+`/well ] && { [ "$CNI_COMMAND" = DEL ] || printf '%s' "$input" | jq .prevResult; exit 0; }
echo '{"code":11,"msg":"the switch is on fire"}'; exit 1`)
	n.write("10-bridge.conflist", n.bridged("half", `{"type":"broken"}`))
	b, r := n.backend(), n.pod()
	for range 2 { // the second attach first takes back what the first left
		_, err := b.Attach(t.Context(), r)
		for _, want := range []string{"the switch is on fire", "broken", "shop/web-0", r.Pod, "10-bridge.conflist"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Fatalf("the error does not name %q: %v", want, err)
			}
		}
		if len(n.leases()) != 2 {
			t.Fatalf("leases %v: want those of one attempt", n.leases())
		}
	}
	ok(t, os.WriteFile(filepath.Join(n.store, "well"), nil, 0o600))
	_, err := b.Attach(t.Context(), r)
	ok(t, err)
	ok(t, b.Detach(t.Context(), r))
	if left := n.leases(); len(left) > 0 {
		t.Errorf("addresses not given back: %v", left)
	}
}

func TestPluginsAreToldOfThePodAndOnlyTheCapabilitiesTheyDeclare(t *testing.T) {
	n := newNode(t)
	n.script("note", `[ "$CNI_COMMAND" = ADD ] || exit 0
printf '%s' "$input" >`+n.store+`/stdin; env >`+n.store+`/env
echo '{"cniVersion":"1.0.0","ips":[{"address":"192.0.2.1/24"}]}'`)
	n.write("10-note.conf", `{"cniVersion":"1.0.0","name":"notes","type":"note","capabilities":{"portMappings":true,"dns":true,"bandwidth":true}}`)
	b, r := n.backend(), n.pod()
	r.Cgroup = "/kubepods/pod1"
	r.DNS = &cri.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"cluster.local"}, Options: []string{"ndots:5"}}
	r.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "1.5Ki"}
	r.PortMappings = []*cri.PortMapping{
		{Protocol: cri.Protocol_UDP, ContainerPort: 53, HostPort: 5353, HostIp: "127.0.0.1"},
		{ContainerPort: 80},
	}
	n.attached(b, r)
	env, err := os.ReadFile(filepath.Join(n.store, "env"))
	ok(t, err)
	for _, want := range []string{
		"CNI_IFNAME=eth0", "CNI_CONTAINERID=" + r.Pod, "CNI_NETNS=" + r.NetNS,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=" + r.Pod + ";K8S_POD_UID=uid-1",
	} {
		if !strings.Contains(string(env), want+"\n") {
			t.Errorf("no %q in the environment", want)
		}
	}
	content, err := os.ReadFile(filepath.Join(n.store, "stdin"))
	ok(t, err)
	var config struct{ RuntimeConfig json.RawMessage }
	ok(t, json.Unmarshal(content, &config))
	want := `{"bandwidth":{"egressBurst":2147483647,"egressRate":1536,"ingressBurst":2147483647,"ingressRate":10000000},` +
		`"dns":{"options":["ndots:5"],"searches":["cluster.local"],"servers":["10.96.0.10"]},` +
		`"portMappings":[{"containerPort":53,"hostIP":"127.0.0.1","hostPort":5353,"protocol":"udp"}]}`
	if string(config.RuntimeConfig) != want {
		t.Errorf("runtimeConfig\n%s, want\n%s", config.RuntimeConfig, want)
	}
}

func TestArgumentsOfTheAuthorsChoiceAreRefused(t *testing.T) {
	n := newNode(t)
	n.write("10-bridge.conflist", n.bridged("args"))
	b, r := n.backend(), n.pod()
	for _, change := range []func(*backends.NetworkRequest){
		func(r *backends.NetworkRequest) { r.Name = "x;K8S_POD_NAMESPACE=kube-system" },
		func(r *backends.NetworkRequest) { r.UID = "a=b" },
		func(r *backends.NetworkRequest) { r.Pod = "../../x" },
		func(r *backends.NetworkRequest) {
			r.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "fast"}
		},
		func(r *backends.NetworkRequest) {
			r.Annotations = map[string]string{"kubernetes.io/egress-bandwidth": "999P"}
		},
	} {
		bad := r
		change(&bad)
		if _, err := b.Attach(t.Context(), bad); err == nil || messages.KindOf(err) != messages.Invalid {
			t.Errorf("got %v, want kind Invalid", err)
		}
	}
}

func TestAnAttachCutOffByAKillIsFoundWithoutAnyRecord(t *testing.T) {
	n := newNode(t)
	n.write("10-bridge.conflist", n.bridged("torn"))
	b, r := n.backend(), n.pod()
	_, err := b.Attach(t.Context(), r)
	ok(t, err)
	results, err := filepath.Glob(filepath.Join(n.cache, "pods", r.Pod, "results", "*"))
	ok(t, err)
	ok(t, os.Truncate(results[0], 10)) // as a power cut may leave it
	held, err := b.Held(t.Context())
	ok(t, err)
	if len(held) != 1 || held[0].Pod != r.Pod {
		t.Fatalf("held %v", held)
	}
	ok(t, b.Drop(t.Context(), held[0]))
	if left := n.leases(); len(left) > 0 {
		t.Errorf("addresses not given back: %v", left)
	}
}

func TestAFullDiskIsNoSpaceAndNoPluginRuns(t *testing.T) {
	n := newNode(t)
	n.write("10-bridge.conflist", n.bridged("full"))
	ok(t, unix.Mount("tmpfs", n.cache, "tmpfs", 0, "size=16k"))
	defer func() { ok(t, unix.Unmount(n.cache, unix.MNT_DETACH)) }()
	_ = os.WriteFile(filepath.Join(n.cache, "filler"), make([]byte, 1<<20), 0o600)
	b := n.backend(func(c *cni.Config) {})
	if _, err := b.Attach(t.Context(), n.pod()); err == nil || messages.KindOf(err) != messages.NoSpace {
		t.Errorf("got %v, want kind NoSpace", err)
	}
	if left := n.leases(); len(left) > 0 {
		t.Errorf("leases %v", left)
	}
}

//go:build kubelet

package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
)

// background outlives a test: for what must be tidied up after it has ended.
var background = context.Background()

// node is a kubelet on a private daemon. Both have their directories on one
// small disk, as on a node with one partition.
type node struct {
	lab     *harness.Lab
	disk    *harness.Disk
	daemon  *harness.Daemon
	kubelet *harness.Kubelet
	cri     *harness.CRI

	mu   sync.Mutex
	pods []pod // as of seen
	seen time.Time
}

// nodeOptions are what may differ from the usual node.
type nodeOptions struct {
	disk   int64                                        // MiB; 0: 4096 (sparse)
	config map[string]any                               // of the kubelet
	extra  string                                       // TOML at the end of the daemon's configuration
	images string                                       // lines of the daemon's [crio.image]
	before func(n *node) (kubeconfig string, err error) // what the kubelet needs; nil: nothing
}

var (
	theNodeOnce sync.Once
	subnets     atomic.Int64
)

// theNode gives the node that all tests share which disturb nobody. They run
// side by side: a node of ours is not only for one pod at a time.
func theNode(t *testing.T) *node {
	t.Helper()
	t.Parallel()
	theNodeOnce.Do(func() {
		n, err := makeNode(nodeOptions{config: map[string]any{
			"podPidsLimit": 512, "containerLogMaxSize": "64Ki", "containerLogMaxFiles": 20, "containerLogMonitorInterval": "3s",
			"featureGates": map[string]any{"ContainerStopSignals": true},
		}})
		if err != nil {
			t.Errorf("the shared node: %v", err)
			return
		}
		world.node = n
	})
	if world.node == nil {
		t.Fatal("the shared node could not be made")
	}
	return world.node
}

// ownNode gives a node that is the test's alone, to be starved and killed.
func ownNode(t *testing.T, o nodeOptions) *node {
	t.Helper()
	t.Parallel()
	n, err := makeNode(o)
	if n != nil {
		t.Cleanup(func() {
			n.keepLogs(t.Name())
			if t.Failed() && n.kubelet != nil {
				t.Logf("the kubelet's last lines:\n%s\nthe daemon's:\n%s", n.kubelet.Tail(30), n.daemon.Tail(15))
			}
			if err := n.lab.Close(); err != nil {
				t.Errorf("tidying up: %v", err)
			}
		})
	}
	ok(t, err)
	return n
}

// makeNode makes and starts one; what is made goes with its lab, also on error.
func makeNode(o nodeOptions) (n *node, err error) {
	lab, err := harness.NewLab()
	if err != nil {
		return nil, err
	}
	n = &node{lab: lab}
	lab.Abandon = true
	if o.disk == 0 {
		o.disk = 4096
	}
	if n.disk, err = lab.NewDisk("root", o.disk); err != nil {
		return n, err
	}
	network, err := lab.NewNetwork()
	if err != nil {
		return n, err
	}
	network.Subnet = fmt.Sprintf("10.%d.0.0/16", 100+subnets.Add(1)) // nodes side by side, one route each
	if err := network.Configure(); err != nil {
		return n, err
	}
	n.daemon, err = lab.NewDaemon(harness.DaemonOptions{
		Network: network, Insecure: []string{world.registry.Host, world.private.Host}, LogLevel: "info", Images: o.images, Extra: o.extra,
		Root: filepath.Join(n.disk.Dir, "troupe"), Storage: filepath.Join(n.disk.Dir, "images"),
	})
	if err != nil {
		return n, err
	}
	if err := n.daemon.Start(background); err != nil {
		return n, err
	}
	if n.cri, err = harness.Dial(n.daemon.Socket); err != nil {
		return n, err
	}
	lab.OnClose(func() error { n.cri.Close(); return nil })
	kubeconfig := ""
	if o.before != nil {
		if kubeconfig, err = o.before(n); err != nil {
			return n, err
		}
	}
	n.kubelet, err = lab.NewKubelet(harness.KubeletOptions{
		Root: filepath.Join(n.disk.Dir, "kubelet"), Socket: n.daemon.Socket, NodeIP: nodeIP, Kubeconfig: kubeconfig, Config: o.config,
	})
	if err != nil {
		return n, err
	}
	return n, n.kubelet.Start(background)
}

// look is what the kubelet says of its pods, a moment old at most: many tests
// look at the same time.
func (n *node) look() ([]pod, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Since(n.seen) < 200*time.Millisecond {
		return n.pods, nil
	}
	ctx, cancel := context.WithTimeout(background, 10*time.Second)
	defer cancel()
	text, err := n.kubelet.Get(ctx, "/pods")
	if err != nil {
		return nil, err
	}
	var list struct{ Items []pod }
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, err
	}
	n.pods, n.seen = list.Items, time.Now()
	return n.pods, nil
}

// keepLogs copies the logs to the directory that KUBELET_TEST_LOGS names, for
// whoever looks for the cause of a failure.
func (n *node) keepLogs(name string) {
	keep := os.Getenv("KUBELET_TEST_LOGS")
	if keep == "" || n == nil || n.kubelet == nil {
		return
	}
	for what, from := range map[string]string{"kubelet": n.kubelet.LogFile, "troupe": n.daemon.LogFile} {
		text, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(keep, name+"."+what+".log"), text, 0o644)
		}
		if err != nil {
			fmt.Println("keeping the logs:", err)
		}
	}
}

//go:build kubelet

package kubelet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/troupe-run/troupe/e2e/harness"
	"github.com/vishvananda/netlink"
)

// nodeIP is the address of the machine that all kubelets of the run share.
// They do not take a loopback address, and the lab's node has no other.
const nodeIP = "192.0.2.10"

// world is what all nodes of the run have in common.
var world struct {
	lab      *harness.Lab
	registry *harness.Registry
	private  *harness.Registry // wants a user and a password
	image    string            // busybox with the workload program; not pulled by anybody yet
	imageID  string            // of it
	digest   string            // of its manifest
	node     *node             // the node that most tests share
}

func TestMain(m *testing.M) {
	harness.Enter()
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	err := prepare()
	if err != nil {
		fmt.Println("preparing the node:", err)
		code = 1
	} else {
		code = m.Run()
		if !lastChecks(sharedNodes()) {
			code = 1
		}
	}
	if collector.ready != nil {
		<-collector.ready
	}
	for name, n := range sharedNodes() {
		n.keepLogs(name)
		if n != nil {
			err = errors.Join(err, n.lab.Close())
		}
	}
	if err = errors.Join(err, world.lab.Close()); err != nil {
		fmt.Println("tidying up:", err)
		code = 1
	}
	return code
}

// sharedNodes are the nodes that no single test ends.
func sharedNodes() map[string]*node {
	all := map[string]*node{"standalone": world.node, "collector": collector.node}
	if sharedCluster != nil {
		all["cluster"] = sharedCluster.node
	}
	return all
}

func prepare() error {
	var err error
	if world.lab, err = harness.NewLab(); err != nil {
		return err
	}
	if err := world.lab.ShieldLogs(); err != nil {
		return err
	}
	if err := addAddress(); err != nil {
		return fmt.Errorf("giving the machine the address %s: %w", nodeIP, err)
	}
	if world.registry, err = world.lab.StartRegistry(background, harness.RegistryOptions{}); err != nil {
		return err
	}
	if world.private, err = world.lab.StartRegistry(background, harness.RegistryOptions{Username: "someone", Password: "sesame"}); err != nil {
		return err
	}
	program := world.lab.Path("workload")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./workload")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the workload program: %w: %s", err, out)
	}
	text, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	made, err := harness.BuildImage(harness.ImageSpec{
		Cmd: []string{"sleep", "100000"}, Env: []string{"FROM_IMAGE=yes"},
		Passwd: "worker:x:1234:1234::/home:/bin/sh\n", Files: map[string]string{"bin/workload": string(text)},
	})
	if err != nil {
		return err
	}
	world.imageID, world.digest = made.ConfigID, made.Digest()
	if world.image, err = world.registry.Push(background, "lab/busybox", "1", made); err != nil {
		return err
	}
	startCollector()
	return nil
}

func addAddress() error {
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "machine"}} // an empty one: not every kernel has dummy links
	if err := netlink.LinkAdd(link); err != nil {
		return err
	}
	address, err := netlink.ParseAddr(nodeIP + "/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

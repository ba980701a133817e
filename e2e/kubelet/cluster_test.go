//go:build kubelet

package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
)

// cluster is a node whose kubelet has a real API server: for what static pods
// cannot have, and to do things the way people do, by kubectl.
type cluster struct {
	*node
	api *harness.APIServer
}

var (
	theClusterOnce sync.Once
	theClusterErr  error
	sharedCluster  *cluster
)

// theCluster gives the cluster that most tests with an API server share.
func theCluster(t *testing.T) *cluster {
	t.Helper()
	t.Parallel()
	theClusterOnce.Do(func() {
		sharedCluster, theClusterErr = makeCluster(nodeOptions{extra: "[crio.runtime.runtimes.crun]\n[crio.runtime.runtimes.runc]\n"})
	})
	if theClusterErr != nil {
		t.Fatalf("the shared cluster could not be made: %v", theClusterErr)
	}
	return sharedCluster
}

// ownCluster gives one that is the test's alone.
func ownCluster(t *testing.T, o nodeOptions) *cluster {
	t.Helper()
	t.Parallel()
	c, err := makeCluster(o)
	t.Cleanup(func() {
		if c.node == nil {
			return
		}
		c.keepLogs(t.Name())
		if t.Failed() && c.kubelet != nil {
			t.Logf("the kubelet's last lines:\n%s\nthe daemon's:\n%s", c.kubelet.Tail(30), c.daemon.Tail(15))
		}
		if err := c.lab.Close(); err != nil {
			t.Errorf("tidying up: %v", err)
		}
	})
	ok(t, err)
	return c
}

func makeCluster(o nodeOptions) (c *cluster, err error) {
	c = &cluster{}
	o.before = func(n *node) (kubecfg string, err error) {
		if c.api, err = n.lab.StartAPIServer(background, nodeIP); err != nil {
			return "", err
		}
		return c.api.Kubeconfig, nil
	}
	if o.config == nil {
		o.config = map[string]any{}
	}
	o.config["address"] = "0.0.0.0" // the API server calls the node by its address
	if c.node, err = makeNode(o); err != nil {
		return c, err
	}
	// What controllers do elsewhere.
	for _, args := range [][]string{
		{"create", "namespace", "lab"},
		{"create", "-n", "lab", "serviceaccount", "default"},
		{"create", "-n", "lab", "configmap", "kube-root-ca.crt", "--from-literal=ca.crt=none"},
	} {
		if _, err := c.api.Kubectl(background, "", args...); err != nil {
			return c, err
		}
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if _, err = c.api.Kubectl(background, "", "get", "node", c.kubelet.Node); err == nil || time.Now().After(end) {
			return c, err
		}
	}
}

// kubectl runs kubectl in the namespace of the tests; it must succeed.
func (c *cluster) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(background, 90*time.Second)
	defer cancel()
	out, err := c.api.Kubectl(ctx, "", append([]string{"-n", "lab"}, args...)...)
	ok(t, err)
	return out
}

// apply makes objects from YAML, in which IMAGE is the usual image.
func (c *cluster) apply(t *testing.T, yaml string) {
	t.Helper()
	_, err := c.api.Kubectl(background, strings.ReplaceAll(yaml, "IMAGE", world.image), "-n", "lab", "apply", "-f", "-")
	ok(t, err)
}

// member is a pod that the API server knows.
type member struct {
	*cluster
	name string
}

// run makes a pod on the node; it goes with the test.
func (c *cluster) run(t *testing.T, spec string) *member {
	t.Helper()
	words := unnamed.ReplaceAllString(strings.ToLower(strings.TrimPrefix(t.Name(), "Test")), "-")
	m := &member{c, fmt.Sprintf("%.40s-%d", strings.Trim(words, "-"), serial.Add(1))}
	if !strings.Contains(spec, "terminationGracePeriodSeconds") {
		spec += "\nterminationGracePeriodSeconds: 1"
	}
	if !strings.Contains(spec, "automountServiceAccountToken") {
		spec += "\nautomountServiceAccountToken: false"
	}
	t.Cleanup(func() {
		c.kubectl(t, "delete", "pod", m.name, "--ignore-not-found", "--wait=true", "--timeout=60s")
		if t.Failed() {
			t.Logf("the daemon's lines on it:\n%s", c.daemon.Grep(m.name, 15))
		}
	})
	c.apply(t, fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n%s", m.name, indent(spec+"\nnodeName: "+c.kubelet.Node)))
	return m
}

func (m *member) status(t *testing.T) *status {
	t.Helper()
	var p pod
	ok(t, json.Unmarshal([]byte(m.kubectl(t, "get", "pod", m.name, "-o", "json")), &p))
	return &p.Status
}

func (m *member) until(t *testing.T, what string, is func(*status) bool) *status {
	t.Helper()
	var s *status
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if s = m.status(t); is(s) {
			return s
		}
	}
	t.Fatalf("waited 90 s in vain: %s; the API server says: %s", what, s)
	return nil
}

func (m *member) ready(t *testing.T) *status {
	t.Helper()
	return m.until(t, "the pod is ready", func(s *status) bool { return s.is("Ready") })
}

// exec runs a shell command in a container by kubectl exec; it must succeed.
func (m *member) exec(t *testing.T, container, command string) string {
	t.Helper()
	return m.kubectl(t, "exec", m.name, "-c", container, "--", "sh", "-c", command)
}

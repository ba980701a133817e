package harness

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// APIServer is a real kube-apiserver with an etcd of its own: no scheduler and
// no controllers, so a pod names its node, and nothing is made by itself.
// Whoever has its token may do anything.
type APIServer struct {
	Kubeconfig string
	LogFile    string
	kubectl    string
	home       string
}

// StartAPIServer starts one that ends with the lab; address is one of the
// machine that is not loopback.
func (l *Lab) StartAPIServer(ctx context.Context, address string) (*APIServer, error) {
	a := &APIServer{LogFile: l.Path("apiserver", "log"), home: l.Path("apiserver", "home")}
	bins := map[string]string{}
	for _, name := range []string{"etcd", "kube-apiserver", "kubectl"} {
		bin, err := projectTool(name)
		if err != nil {
			return nil, fmt.Errorf("%w ('make kubelet' builds it)", err)
		}
		bins[name] = bin
	}
	a.kubectl = bins["kubectl"]
	var at [3]string // etcd for clients, etcd for peers, API server
	for i := range at {
		var err error
		if at[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	etcd := exec.Command(bins["etcd"], "--data-dir="+l.Path("apiserver", "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=http://"+at[0], "--advertise-client-urls=http://"+at[0], "--listen-peer-urls=http://"+at[1])
	if err := l.startProcess(etcd, l.Path("apiserver", "etcd.log")); err != nil {
		return nil, err
	}
	key, token, err := a.secrets(l)
	if err != nil {
		return nil, err
	}
	server := exec.Command(bins["kube-apiserver"], "--etcd-servers=http://"+at[0],
		"--bind-address=127.0.0.1", "--secure-port="+at[2][strings.LastIndex(at[2], ":")+1:], "--advertise-address="+address, "--cert-dir="+l.Path("apiserver", "pki"),
		"--token-auth-file="+token, "--authorization-mode=AlwaysAllow", "--service-cluster-ip-range=10.99.0.0/24",
		"--service-account-issuer=https://lab", "--service-account-key-file="+key, "--service-account-signing-key-file="+key,
		"--kubelet-preferred-address-types=InternalIP", "--watch-cache=false", "--endpoint-reconciler-type=none")
	if err := l.startProcess(server, a.LogFile); err != nil {
		return nil, err
	}
	a.Kubeconfig, err = l.Write(fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://%s", insecure-skip-tls-verify: true}}]
users: [{name: lab, user: {token: lab}}]
contexts: [{name: lab, context: {cluster: lab, user: lab}}]
current-context: lab
`, at[2]), "apiserver", "kubeconfig")
	return a, errors.Join(err, a.wait(ctx, server))
}

// secrets makes what the server must have: a key to sign tokens, and a user.
func (a *APIServer) secrets(l *Lab) (key, token string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return "", "", err
	}
	if key, err = l.Write(string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})), "apiserver", "sa.key"); err != nil {
		return "", "", err
	}
	token, err = l.Write("lab,lab,lab,system:masters\n", "apiserver", "tokens.csv")
	return key, token, err
}

func (a *APIServer) wait(ctx context.Context, server *exec.Cmd) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		_, err := a.Kubectl(ctx, "", "get", "--raw", "/readyz")
		if err == nil {
			return nil
		}
		if !alive(server.Process.Pid) {
			cancel()
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(a.LogFile)
			return fmt.Errorf("the API server is not ready: %w; the last of its log:\n%s", err, log[max(0, len(log)-3000):])
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Kubectl runs the real kubectl with this input and gives what it printed.
func (a *APIServer) Kubectl(ctx context.Context, input string, args ...string) (string, error) {
	cmd := a.Command(ctx, args...)
	cmd.Stdin = strings.NewReader(input)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// Command is a kubectl that is still to be started.
func (a *APIServer) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, a.kubectl, append([]string{"--kubeconfig=" + a.Kubeconfig}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+a.home)
	return cmd
}

// projectTool finds a program in the project's own tools only: one of the same
// name in PATH may be anything.
func projectTool(name string) (string, error) {
	root, err := ProjectRoot()
	if err != nil {
		return "", err
	}
	p := filepath.Join(root, ".cache", "tools", "bin", name)
	_, err = os.Stat(p)
	return p, err
}

package harness

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// kubeletClient trusts the certificate that a kubelet makes for itself.
var kubeletClient = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}

// URL is a place of the kubelet's API.
func (k *Kubelet) URL(path string) string { return "https://127.0.0.1:" + k.Port + path }

// Get asks the kubelet's API; an answer other than 200 is an error.
func (k *Kubelet) Get(ctx context.Context, path string) (string, error) {
	return k.do(ctx, http.MethodGet, path)
}

// Post sends an empty request to the kubelet's API.
func (k *Kubelet) Post(ctx context.Context, path string) (string, error) {
	return k.do(ctx, http.MethodPost, path)
}

// Exec runs a command in a container by the kubelet's /run and gives its output.
func (k *Kubelet) Exec(ctx context.Context, namespace, pod, container string, command ...string) (string, error) {
	// /run splits what it is given at spaces (k8s.io/kubernetes
	// pkg/kubelet/server, getRun), so words must not hold any.
	return k.do(ctx, http.MethodPost, fmt.Sprintf("/run/%s/%s/%s?cmd=%s", namespace, pod, container, url.QueryEscape(strings.Join(command, " "))))
}

func (k *Kubelet) do(ctx context.Context, method, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, k.URL(path), nil)
	if err != nil {
		return "", err
	}
	resp, err := kubeletClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, strings.TrimSpace(string(text)))
	}
	return string(text), nil
}

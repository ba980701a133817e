package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	cnitypes "github.com/containernetworking/cni/pkg/types/100"
	"github.com/troupe-run/troupe/backends"
)

// attachment is one thing to undo.
type attachment struct {
	list *libcni.NetworkConfigList
	conf *libcni.RuntimeConf
}

// attachments are what libcni's cache has of a pod, and the attempt that came
// to no result. What is too damaged to read is undone by the configuration in
// use now, which is the best guess there is.
func (b *Backend) attachments(pod string) ([]attachment, error) {
	results, err := b.results(pod)
	if err != nil {
		return nil, err
	}
	cached, err := b.libcni(pod, nil).GetCachedAttachments(pod)
	if err != nil {
		return nil, fmt.Errorf("read what pod %s is attached to: %w", pod, err)
	}
	var found []attachment
	have := map[string]bool{}
	for _, c := range cached {
		a, err := b.attachment(c.Config, &libcni.RuntimeConf{
			ContainerID: pod, NetNS: c.NetNS, IfName: c.IfName, Args: c.CniArgs, CapabilityArgs: c.CapabilityArgs,
		})
		if err != nil {
			return nil, err
		}
		have[a.list.Name] = true
		found = append(found, a)
	}
	open, err := b.openAttempt(pod)
	if err != nil {
		return nil, err
	}
	if open != nil && !have[open.list.Name] {
		found = append(found, *open)
	}
	if results > 0 && len(found) == 0 { // a torn result is all there is
		a, err := b.attachment(nil, &libcni.RuntimeConf{ContainerID: pod, IfName: ifName})
		if err != nil {
			return nil, err
		}
		found = append(found, a)
	}
	return found, nil
}

// attachment parses a stored configuration, or takes the one in use.
func (b *Backend) attachment(config []byte, conf *libcni.RuntimeConf) (attachment, error) {
	list, err := libcni.NetworkConfFromBytes(config)
	if err == nil {
		return attachment{list, conf}, nil
	}
	b.config.Log.Warn("the configuration a pod was attached with is damaged; detaching with the one in use", "pod", conf.ContainerID, "error", err)
	n, err := b.source.network()
	if err != nil {
		return attachment{}, fmt.Errorf("detach pod %s: %w", conf.ContainerID, err)
	}
	return attachment{n.list, conf}, nil
}

func (b *Backend) openAttempt(pod string) (*attachment, error) {
	content, err := backends.ReadFile(b.attemptPath(pod))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var t attempt
	if err == nil {
		err = json.Unmarshal(content, &t)
	}
	if err != nil {
		b.config.Log.Warn("the note of an attempt to attach a pod is damaged", "pod", pod, "error", err)
		t = attempt{}
	}
	a, err := b.attachment(t.Config, &libcni.RuntimeConf{
		ContainerID: pod, NetNS: t.NetNS, IfName: ifName, Args: t.Args, CapabilityArgs: t.Capabilities,
	})
	return &a, err
}

// cachedResult is what an earlier ADD into the same namespace gave. libcni
// writes it after the last plugin has succeeded, so it is whole.
func (b *Backend) cachedResult(r backends.NetworkRequest) (backends.NetworkResult, bool) {
	none := backends.NetworkResult{}
	if n, err := b.results(r.Pod); err != nil || n == 0 {
		return none, false
	}
	cni := b.libcni(r.Pod, nil)
	cached, err := cni.GetCachedAttachments(r.Pod)
	if err != nil || len(cached) != 1 || cached[0].NetNS != r.NetNS || cached[0].IfName != ifName {
		return none, false
	}
	if _, err := os.Lstat(b.attemptPath(r.Pod)); err == nil {
		return none, false // killed before it was known to be whole
	}
	list, err := libcni.NetworkConfFromBytes(cached[0].Config)
	if err != nil {
		return none, false
	}
	raw, err := cni.GetNetworkListCachedResult(list, &libcni.RuntimeConf{ContainerID: r.Pod, IfName: ifName})
	if err != nil || raw == nil {
		return none, false
	}
	result, err := cnitypes.NewResultFromResult(raw)
	if err != nil {
		return none, false
	}
	ips := addresses(result)
	return backends.NetworkResult{IPs: ips}, len(ips) > 0
}

// results counts a pod's results. It removes what is none: libcni reads all there
// is through links and without bound, and one to /dev/zero took all of the node's
// memory.
func (b *Backend) results(pod string) (n int, err error) {
	remove := func(path string, mode fs.FileMode) error {
		b.config.Log.Warn("what lay in the place of a network's result is removed", "path", path, "type", mode.Type())
		return os.RemoveAll(path)
	}
	for _, dir := range []string{b.podDir(pod), b.resultsDir(pod)} {
		info, err := os.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
		if err == nil && !info.IsDir() {
			return 0, remove(dir, info.Mode())
		}
		if err != nil {
			return 0, fmt.Errorf("look for what pod %s is attached to: %w", pod, err)
		}
	}
	entries, err := os.ReadDir(b.resultsDir(pod))
	if err != nil {
		return 0, fmt.Errorf("look for what pod %s is attached to: %w", pod, err)
	}
	for _, e := range entries {
		if e.Type().IsRegular() {
			n++
		} else if err := remove(filepath.Join(b.resultsDir(pod), e.Name()), e.Type()); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// Held is every pod that is attached, or was being attached, or has host ports.
func (b *Backend) Held(ctx context.Context) ([]backends.Held, error) {
	var held []backends.Held
	for _, dir := range []string{b.podDir(""), b.attemptsDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list attached pods: %w", err)
		}
		for _, e := range entries {
			if pod := e.Name(); backends.IsOurs(pod) {
				held = append(held, backends.Held{Kind: "network", Pod: pod, Name: filepath.Join(dir, e.Name())})
			}
		}
	}
	rules, err := b.forwarder.pods()
	if err != nil {
		return nil, err
	}
	for pod := range rules {
		held = append(held, backends.Held{Kind: "hostport", Pod: pod, Name: b.forwarder.table + " " + portsPrefix + pod})
	}
	claims, err := b.claimants()
	if err != nil {
		return nil, err
	}
	for _, pod := range claims {
		held = append(held, backends.Held{Kind: "hostport", Pod: pod, Name: filepath.Join(b.portsDir(), pod)})
	}
	return held, ctx.Err()
}

// Drop detaches the pod.
func (b *Backend) Drop(ctx context.Context, h backends.Held) error {
	return b.Detach(ctx, backends.NetworkRequest{Pod: h.Pod})
}

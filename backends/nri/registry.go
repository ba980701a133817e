package nri

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// registry is what was told since the daemon started, or would have been if
// there had been a plugin. A pod or container is in it from the moment plugins
// are asked about it, which is before it is published.
type registry struct {
	mu         sync.Mutex
	pods       map[string]backends.PluginPod
	containers map[string]*known
}

type known struct {
	backends.PluginContainer
	stopped bool           // told
	whole   *api.Container // as plugins last heard of it, with what its spec says; nil: never
}

func newRegistry() registry {
	return registry{pods: map[string]backends.PluginPod{}, containers: map[string]*known{}}
}

func (k *registry) putPod(p backends.PluginPod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pods[p.ID] = p
}

// dropPod says whether the pod was known.
func (k *registry) dropPod(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, known := k.pods[id]
	delete(k.pods, id)
	return known
}

// pod is what is known of a pod, else p.
func (k *registry) pod(p backends.PluginPod) backends.PluginPod {
	k.mu.Lock()
	defer k.mu.Unlock()
	if have, ok := k.pods[p.ID]; ok {
		return have
	}
	return p
}

// putContainer takes down how a container is now. Its stop stays told.
func (k *registry) putContainer(c backends.PluginContainer, whole *api.Container) {
	k.mu.Lock()
	defer k.mu.Unlock()
	have := k.containers[c.ID]
	if have == nil {
		have = &known{}
		k.containers[c.ID] = have
	}
	have.PluginContainer = c
	if whole != nil {
		have.whole = whole
	}
}

// whole is what plugins heard last of a container.
func (k *registry) whole(id string) *api.Container {
	k.mu.Lock()
	defer k.mu.Unlock()
	if have := k.containers[id]; have != nil {
		return have.whole
	}
	return nil
}

// stop says whether the container's stop is still to be told, and takes down
// that it is.
func (k *registry) stop(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	have := k.containers[id]
	if have == nil {
		return true // of an earlier daemon
	}
	first := !have.stopped
	have.stopped = true
	return first
}

func (k *registry) has(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.containers[id] != nil
}

func (k *registry) drop(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.containers, id)
}

// running are the containers of a pod whose stop has not been told.
func (k *registry) running(pod string) []backends.PluginContainer {
	k.mu.Lock()
	defer k.mu.Unlock()
	var list []backends.PluginContainer
	for _, id := range slices.Sorted(maps.Keys(k.containers)) {
		if c := k.containers[id]; c.Pod.ID == pod && !c.stopped {
			list = append(list, c.PluginContainer)
		}
	}
	return list
}

// synchronize tells a new plugin what there is. No call is under way.
func (b *Backend) synchronize(ctx context.Context, tell adaptation.SyncCB) error {
	pods, containers := b.inventory()
	updates, err := tell(ctx, pods, containers)
	if err != nil {
		return err
	}
	b.later("Synchronize", updates)
	return nil
}

// inventory is all pods that are not being removed and all containers that
// have not exited: what is published, and what is only told.
func (b *Backend) inventory() ([]*api.PodSandbox, []*api.Container) {
	pods, containers := map[string]backends.PluginPod{}, map[string]backends.PluginContainer{}
	b.known.mu.Lock()
	maps.Copy(pods, b.known.pods)
	for id, c := range b.known.containers {
		if !c.stopped {
			containers[id] = c.PluginContainer
		}
	}
	b.known.mu.Unlock()
	view := b.host.View()
	for _, p := range view.Pods() {
		if _, told := pods[p.ID]; !told && p.State != messages.PodRemoving {
			pods[p.ID] = podOf(p)
		}
	}
	for _, c := range view.Containers() {
		switch c.State {
		case messages.ContainerCreated, messages.ContainerStarting, messages.ContainerRunning, messages.ContainerStopping:
			if pod, ok := pods[c.Pod]; ok {
				containers[c.ID] = containerOf(pod, c)
			}
		case messages.ContainerExited, messages.ContainerRemoving:
			delete(containers, c.ID)
		}
	}
	var told []*api.PodSandbox
	for _, id := range slices.Sorted(maps.Keys(pods)) {
		told = append(told, podSandbox(pods[id]))
	}
	var tell []*api.Container
	for _, id := range slices.Sorted(maps.Keys(containers)) {
		c := containers[id]
		whole := b.container(c)
		b.known.putContainer(c, whole)
		tell = append(tell, whole)
	}
	return told, tell
}

func podOf(p *messages.PodSnapshot) backends.PluginPod {
	return backends.PluginPod{
		ID: p.ID, Config: p.Config, Handler: p.Handler, Cgroup: p.Cgroup, Namespaces: p.Namespaces, IPs: p.IPs,
	}
}

func containerOf(pod backends.PluginPod, c *messages.ContainerSnapshot) backends.PluginContainer {
	return backends.PluginContainer{
		ID: c.ID, Pod: pod, Config: c.Config, State: c.State, CreatedAt: c.CreatedAt,
		Process: messages.ProcessState{Pid: c.Pid, StartedAt: c.StartedAt},
	}
}

package actors

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// Index holds what the actors have published. List and Status are answered
// from here, without asking any actor and without waiting for work. Values are
// immutable; the lists are made anew only after a change.
type Index struct {
	mu         sync.RWMutex
	pods       map[string]*messages.PodSnapshot
	containers map[string]*messages.ContainerSnapshot
	images     []messages.Image
	fs         messages.Filesystem
	network    messages.Condition
	runtime    messages.Condition
	pulls      map[string]pullUnderWay
	ended      []messages.PullProgress // the last few pulls
	actors     map[string]messages.ActorInfo
	restarts   map[string]int
	mailboxes  map[string]func() int
	taken      map[string][]string // container → the images it is being made from
	withdrawn  map[string]bool     // images that are being removed: nobody may take them

	podList       []*messages.PodSnapshot       // nil: to be made
	containerList []*messages.ContainerSnapshot // nil: to be made
}

var _ messages.View = (*Index)(nil)

// NewIndex is an empty index.
func NewIndex() *Index {
	starting := messages.Condition{Reason: "Starting", Message: "troupe is starting"}
	return &Index{
		pods: map[string]*messages.PodSnapshot{}, containers: map[string]*messages.ContainerSnapshot{},
		pulls: map[string]pullUnderWay{}, actors: map[string]messages.ActorInfo{},
		restarts: map[string]int{}, mailboxes: map[string]func() int{},
		taken: map[string][]string{}, withdrawn: map[string]bool{},
		network: starting, runtime: starting,
	}
}

// --- what actors write ---

func (x *Index) putPod(p *messages.PodSnapshot) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.pods[p.ID], x.podList = p, nil
}

func (x *Index) dropPod(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.pods, id)
	x.podList = nil
}

// forget drops what an earlier instance of the node actor had published of pods
// that have no record any more.
func (x *Index) forget(recorded map[string]*records) {
	x.mu.Lock()
	defer x.mu.Unlock()
	gone := func(pod string) bool { r := recorded[pod]; return r == nil || r.err != nil }
	maps.DeleteFunc(x.pods, func(id string, _ *messages.PodSnapshot) bool { return gone(id) })
	maps.DeleteFunc(x.containers, func(_ string, c *messages.ContainerSnapshot) bool { return gone(c.Pod) })
	x.podList, x.containerList = nil, nil
}

func (x *Index) putContainer(c *messages.ContainerSnapshot) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.containers[c.ID], x.containerList = c, nil
}

func (x *Index) dropContainer(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.containers, id)
	delete(x.taken, id)
	x.containerList = nil
}

func (x *Index) putImages(images []messages.Image, fs messages.Filesystem) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.images, x.fs = images, fs
}

func (x *Index) putNetwork(c messages.Condition) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.network = c
}

func (x *Index) putRuntime(c messages.Condition) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.runtime = c
}

func (x *Index) putActor(a messages.ActorInfo) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.actors[a.Path] = a
}

func (x *Index) dropActor(path string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.actors, path)
	delete(x.restarts, path)
	delete(x.mailboxes, path)
}

// acts says whether an actor of this path has published anything: then one
// that starts now is its next instance, after a panic.
func (x *Index) acts(path string) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	_, ok := x.actors[path]
	return ok
}

// Restarted counts a restart of an actor; the supervisor calls it.
func (x *Index) Restarted(path string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.restarts[path]++
}

// Suspended shows that an actor has panicked again and again and waits for its
// restart: itself, and its pod or container, which keep the state they had. The
// supervisor calls it.
func (x *Index) Suspended(path, why string, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if a, ok := x.actors[path]; ok {
		a.State, a.Since = "suspended", now
		x.actors[path] = a
	}
	id := strings.TrimPrefix(path[strings.LastIndexByte(path, '/')+1:], "sandbox-")
	if p, ok := x.pods[id]; ok {
		shown := *p
		shown.Activity.Error = why
		x.pods[id], x.podList = &shown, nil
	}
	if c, ok := x.containers[id]; ok {
		shown := *c
		shown.Activity.Error = why
		x.containers[id], x.containerList = &shown, nil
	}
}

// Mailbox tells how the length of an actor's mailbox can be read.
func (x *Index) Mailbox(path string, length func() int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.mailboxes[path] = length
}

// pod and container give what is published, listed or not.
func (x *Index) pod(id string) (*messages.PodSnapshot, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	p, ok := x.pods[id]
	return p, ok
}

func (x *Index) container(id string) (*messages.ContainerSnapshot, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	c, ok := x.containers[id]
	return c, ok
}

// takeImage finds an image a container is to be made from or is to mount. From
// then on the image cannot be withdrawn: there is no moment between the two.
func (x *Index) takeImage(ref, container string) (messages.Image, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	img, ok := findImage(x.images, ref)
	if !ok || x.withdrawn[img.ID] {
		return messages.Image{}, false
	}
	x.taken[container] = append(x.taken[container], img.ID)
	return img, true
}

// withdrawImage lets nobody take the image any more, unless a container is made
// from it or mounts it: then it names one.
func (x *Index) withdrawImage(image string) (user string, free bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	users := map[string]bool{}
	for id, c := range x.containers {
		if c.ImageID == image || slices.Contains(c.VolumeImages, image) {
			users[id] = true
		}
	}
	for id := range x.taken {
		if slices.Contains(x.taken[id], image) {
			users[id] = true
		}
	}
	if len(users) > 0 {
		return sortedKeys(users)[0], false
	}
	x.withdrawn[image] = true
	return "", true
}

// imageUsers has, for each image that containers are made from or mount, when
// the first of these was made.
func (x *Index) imageUsers() map[string]time.Time {
	x.mu.RLock()
	defer x.mu.RUnlock()
	since := map[string]time.Time{}
	use := func(image string, at time.Time) {
		if first, known := since[image]; !known || at.Before(first) {
			since[image] = at
		}
	}
	for _, c := range x.containers {
		use(c.ImageID, c.CreatedAt)
		for _, image := range c.VolumeImages {
			use(image, c.CreatedAt)
		}
	}
	for id, taken := range x.taken {
		if x.containers[id] != nil {
			continue
		}
		for _, image := range taken { // being made, since when is not known
			use(image, time.Time{})
		}
	}
	return since
}

// offerImages ends that: the image is gone, or its removal failed.
func (x *Index) offerImages(images ...string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, id := range images {
		delete(x.withdrawn, id)
	}
	if len(images) == 0 {
		clear(x.withdrawn)
	}
}

// --- messages.View ---

// Pods implements messages.View.
func (x *Index) Pods() []*messages.PodSnapshot {
	return listed(&x.mu, x.pods, &x.podList, func(p *messages.PodSnapshot) (bool, time.Time, string) {
		return p.Listed, p.CreatedAt, p.ID
	})
}

// Containers implements messages.View.
func (x *Index) Containers() []*messages.ContainerSnapshot {
	return listed(&x.mu, x.containers, &x.containerList, func(c *messages.ContainerSnapshot) (bool, time.Time, string) {
		return c.Listed, c.CreatedAt, c.ID
	})
}

// listed gives the cached list, made anew if something changed. Nobody may
// change what it returns.
func listed[T any](mu *sync.RWMutex, all map[string]*T, cache *[]*T, key func(*T) (bool, time.Time, string)) []*T {
	mu.RLock()
	list := *cache
	mu.RUnlock()
	if list != nil {
		return list
	}
	mu.Lock()
	defer mu.Unlock()
	list = make([]*T, 0, len(all))
	for _, v := range all {
		if ok, _, _ := key(v); ok {
			list = append(list, v)
		}
	}
	slices.SortFunc(list, func(a, b *T) int {
		_, at, ai := key(a)
		_, bt, bi := key(b)
		return cmp.Or(at.Compare(bt), cmp.Compare(ai, bi))
	})
	*cache = list
	return list
}

// Pod implements messages.View.
func (x *Index) Pod(prefix string) (*messages.PodSnapshot, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return byPrefix("pod", x.pods, prefix)
}

// Container implements messages.View.
func (x *Index) Container(prefix string) (*messages.ContainerSnapshot, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return byPrefix("container", x.containers, prefix)
}

// idLength is that of a whole id, which is the beginning of no other: who asks
// for one that has gone is not kept by a look through all.
const idLength = 64

func byPrefix[T any](noun string, all map[string]*T, prefix string) (*T, error) {
	if v, ok := all[prefix]; ok {
		return v, nil
	}
	if len(prefix) >= idLength {
		all = nil
	}
	var hit *T
	for id, v := range all {
		if prefix != "" && strings.HasPrefix(id, prefix) {
			if hit != nil {
				return nil, messages.Errorf(messages.Invalid, "%s id prefix %q fits several: give more of it", noun, prefix)
			}
			hit = v
		}
	}
	if hit == nil {
		return nil, messages.Errorf(messages.NotFound, "%s %q does not exist", noun, prefix)
	}
	return hit, nil
}

// ContainersOf implements messages.View.
func (x *Index) ContainersOf(pod string) []*messages.ContainerSnapshot {
	var of []*messages.ContainerSnapshot
	for _, c := range x.Containers() {
		if c.Pod == pod {
			of = append(of, c)
		}
	}
	return of
}

// Everything implements messages.View.
func (x *Index) Everything() ([]*messages.PodSnapshot, map[string][]*messages.ContainerSnapshot) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	pods := slices.SortedFunc(maps.Values(x.pods), func(a, b *messages.PodSnapshot) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	of := map[string][]*messages.ContainerSnapshot{}
	for _, id := range sortedKeys(x.containers) {
		c := x.containers[id]
		of[c.Pod] = append(of[c.Pod], c)
	}
	return pods, of
}

// Images implements messages.View.
func (x *Index) Images() []messages.Image {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.images
}

// Image implements messages.View.
func (x *Index) Image(ref string) (messages.Image, bool) { return findImage(x.Images(), ref) }

// Filesystem implements messages.View.
func (x *Index) Filesystem() messages.Filesystem {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.fs
}

// Network implements messages.View.
func (x *Index) Network() messages.Condition {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.network
}

// Runtime implements messages.View.
func (x *Index) Runtime() messages.Condition {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.runtime
}

// Tree implements messages.View.
func (x *Index) Tree() []messages.ActorInfo {
	x.mu.RLock()
	defer x.mu.RUnlock()
	all := make([]messages.ActorInfo, 0, len(x.actors))
	for _, path := range sortedKeys(x.actors) {
		a := x.actors[path]
		a.Restarts = x.restarts[path]
		if length, ok := x.mailboxes[path]; ok {
			a.Mailbox = length()
		}
		all = append(all, a)
	}
	return all
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// containerIDs are all containers there are of a pod, listed or not.
func (x *Index) containerIDs(pod string) []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var ids []string
	for id, c := range x.containers {
		if c.Pod == pod {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// owns says whether there is an actor that something on the node belongs to.
func (x *Index) owns(h backends.Held) bool {
	if _, ok := x.pod(h.Pod); !ok {
		return false
	}
	if h.Container == "" || h.Container == h.Pod {
		return true
	}
	_, ok := x.container(h.Container)
	return ok
}

// attached are the pods that may have a network, listed or not: all but those
// that were made before the node was restarted.
func (x *Index) attached() []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var ids []string
	for _, id := range sortedKeys(x.pods) {
		if !x.pods[id].Past {
			ids = append(ids, id)
		}
	}
	return ids
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fill runs new pods while the old ones are still listed, with their names and
// host ports, an attempt later: in some boots as many as the network has
// addresses. One of them gets a container.
func (a *agent) fill(ctx context.Context) error {
	var all sync.WaitGroup
	var mu sync.Mutex
	var problems []string
	of := map[string]string{} // pods by address
	slots := make(chan bool, 4)
	for n := range a.plan.Fill {
		all.Go(func() {
			slots <- true
			defer func() { <-slots }()
			p := a.newPod(kind(n), n)
			ip, err := p.retry(ctx)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				problems = append(problems, fmt.Sprintf("pod %d of %d that the network has addresses for: %v", n+1, a.plan.Fill, err))
			case ip != "" && of[ip] != "":
				problems = append(problems, fmt.Sprintf("pods %s and %s have the address %s", p.config.Metadata.Name, of[ip], ip))
			default:
				of[ip] = p.config.Metadata.Name
			}
			if n == 0 && err == nil {
				if _, err := p.start(ctx, "main", forever, 0, false); err != nil {
					problems = append(problems, fmt.Sprintf("a container of image %s: %v", a.plan.Image, err))
				}
			}
		})
	}
	all.Wait()
	a.tell(Event{Kind: "full", List: problems})
	return nil
}

// retry asks as a kubelet does, for a minute: what the boot before held is
// found and given back in the background.
func (p *workPod) retry(ctx context.Context) (ip string, err error) {
	for end := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Second) {
		if ip, err = p.run(ctx); err == nil || time.Now().After(end) {
			return ip, err
		}
	}
}

// tidy stops and removes all pods, then looks for what is left of any.
func (a *agent) tidy(ctx context.Context) error {
	pods, err := a.cri.Runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	errs := make([]error, len(pods.Items))
	slots := make(chan bool, 6)
	for i, p := range pods.Items {
		all.Go(func() {
			slots <- true
			defer func() { <-slots }()
			w := &workPod{agent: a, id: p.Id, config: &runtime.PodSandboxConfig{Metadata: p.Metadata}}
			errs[i] = errors.Join(w.stop(ctx), w.remove(ctx))
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing all pods: %w", err)
	}
	f, err := a.list(ctx)
	if err != nil {
		return err
	}
	if len(f.Pods)+len(f.Containers) > 0 {
		return fmt.Errorf("all pods were removed, and listed are still %v %v", f.Pods, f.Containers)
	}
	left, err := leftovers()
	// A lost record's things are the sweeper's, which looks once a minute.
	for end := time.Now().Add(150 * time.Second); err == nil && len(left) > 0 && time.Now().Before(end); left, err = leftovers() {
		time.Sleep(time.Second)
	}
	if err != nil {
		return err
	}
	a.tell(Event{Kind: "tidy", List: left})
	return nil
}

// surveyor looks where pods would have something.
var surveyor = harness.Surveyor{
	Cgroups: "troupe-", Addresses: "/var/lib/cni/networks/test", Bridge: "cni0",
	Files: []string{
		"/var/lib/troupe/pods", "/var/lib/troupe/cni/pods", "/var/lib/troupe/cni/attempts", "/var/lib/troupe/cni/ports",
		"/run/troupe/shm", "/run/troupe/ns/net", "/run/troupe/ns/ipc", "/run/troupe/ns/uts",
	},
}

// someID is in the name of all that is a pod's or a container's.
var someID = regexp.MustCompile(`[0-9a-f]{64}`)

func leftovers() (left []string, err error) {
	s, err := surveyor.Take()
	if err != nil {
		return nil, err
	}
	for _, kind := range []string{"mount", "cgroup", "link", "rule", "address", "file"} {
		for _, item := range s[kind] {
			bad := true // of the rest all that there is
			switch kind {
			case "mount":
				bad = strings.HasPrefix(item, "/run/troupe/") || strings.HasPrefix(item, "/var/lib/troupe/") || strings.HasPrefix(item, "/var/lib/containers/storage/overlay/")
			case "cgroup":
				bad = someID.MatchString(item)
			case "link":
				bad = item != "lo" && item != "eth0"
			}
			if bad && kind == "address" { // whose it is says what was forgotten
				owner, err := os.ReadFile(item)
				item = fmt.Sprintf("%s of %q (%v)", item, owner, err)
			}
			if bad {
				left = append(left, kind+" "+item)
			}
		}
	}
	return left, nil
}

//go:build !race

package cri

import (
	"fmt"
	"testing"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// listCosts are the allocations of a list of 100, its client's included: a
// kubelet asks for some of them each second. See actors/cost_test.go.
var listCosts = map[string]float64{
	"ListPodSandbox":     3379,
	"ListContainers":     3591,
	"ListContainerStats": 3696,
}

func TestAListAllocatesNoMoreThanItDid(t *testing.T) {
	g := newGateway(t)
	g.meter.usages = map[string]messages.Usage{}
	for i := range 100 {
		prefix := fmt.Sprintf("%03x", i)
		g.view.pods = append(g.view.pods, samplePod(prefix, messages.PodReady, map[string]string{"app": "web"}))
		c := sampleContainer(prefix, prefix, messages.ContainerRunning, map[string]string{"app": "web"})
		g.view.containers = append(g.view.containers, c)
		g.meter.usages[c.ID] = messages.Usage{}
	}
	ctx := within(t)
	for what, call := range map[string]func() error{
		"ListPodSandbox": func() error {
			_, err := g.rpc.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
			return err
		},
		"ListContainers": func() error {
			_, err := g.rpc.ListContainers(ctx, &runtime.ListContainersRequest{})
			return err
		},
		"ListContainerStats": func() error {
			_, err := g.rpc.ListContainerStats(ctx, &runtime.ListContainerStatsRequest{})
			return err
		},
	} {
		now := testing.AllocsPerRun(50, func() {
			if err := call(); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%s of 100: %.0f allocations", what, now)
		if was := listCosts[what]; now > was*1.05 || now < was/1.05 {
			t.Errorf("%s of 100 allocates %.0f times, it was %.0f: see what the change costs, or lower the figure so that it stays", what, now, was)
		}
	}
}

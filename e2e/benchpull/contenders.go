package main

import (
	"context"
	"fmt"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The contenders.
const (
	troupe         = "troupe"
	containerd     = "containerd"
	floorIgzip     = "floor-igzip"
	floorKlauspost = "floor-klauspost"
	viaSkopeo      = "skopeo copy"
)

var contenders = map[string]func(context.Context, *place) (*running, error){
	troupe:         startTroupe,
	containerd:     startContainerd,
	floorIgzip:     startWorker(floorIgzip),
	floorKlauspost: startWorker(floorKlauspost),
	viaSkopeo:      startWorker(viaSkopeo),
}

// running is a contender that has started.
type running struct {
	pid  int
	pull func(ctx context.Context, ref string) error
}

func startTroupe(ctx context.Context, p *place) (*running, error) {
	o := harness.DaemonOptions{Storage: p.dir, Insecure: []string{p.host}, LogLevel: "info"} // as in production
	if p.profile != "" {
		o.Args = []string{"--profile-cpu", p.profile}
	}
	d, err := p.lab.NewDaemon(o)
	if err != nil {
		return nil, err
	}
	if err := d.Start(ctx); err != nil {
		return nil, err
	}
	return overCRI(p, d.Socket, d.Pid())
}

func startContainerd(ctx context.Context, p *place) (*running, error) {
	network, err := p.lab.NewNetwork()
	if err != nil {
		return nil, err
	}
	c, err := p.lab.StartContainerd(ctx, harness.ContainerdOptions{Network: network, Registry: p.host, Root: p.dir})
	if err != nil {
		return nil, err
	}
	return overCRI(p, c.Socket, c.Pid)
}

func overCRI(p *place, socket string, pid int) (*running, error) {
	cri, err := harness.Dial(socket)
	if err != nil {
		return nil, err
	}
	p.lab.OnClose(func() error { cri.Close(); return nil })
	return &running{pid: pid, pull: func(ctx context.Context, ref string) error {
		_, err := cri.Image.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}})
		if err != nil {
			return fmt.Errorf("pulling %s: %w", ref, err)
		}
		return nil
	}}, nil
}

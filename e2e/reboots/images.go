package main

import (
	"context"
	"strings"

	"github.com/troupe-run/troupe/e2e/blackout"
	"github.com/troupe-run/troupe/e2e/harness"
)

// publish makes the image of all containers, and one that is only pulled.
func (s *series) publish(ctx context.Context, lab *harness.Lab) error {
	r, err := lab.StartRegistry(ctx, harness.RegistryOptions{})
	if err != nil {
		return err
	}
	_, port, _ := strings.Cut(r.Host, ":")
	s.registry = blackout.Gateway + ":" + port
	for name, spec := range map[string]harness.ImageSpec{
		"lab/busybox": {Cmd: []string{"sleep", "100000"}},
		"lab/other":   {Cmd: []string{"x"}, Layers: []*harness.Layer{{}}, Ballast: []int{400 << 10, 300 << 10}},
	} {
		made, err := harness.BuildImage(spec)
		if err != nil {
			return err
		}
		if _, err := r.Push(ctx, name, "1", made); err != nil {
			return err
		}
	}
	s.image, s.other = s.registry+"/lab/busybox:1", s.registry+"/lab/other:1"
	return nil
}

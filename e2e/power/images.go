package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/troupe-run/troupe/e2e/blackout"
	"github.com/troupe-run/troupe/e2e/harness"
)

// catalogue is what can be pulled: by reference, as the machines see it, the
// image's id.
type catalogue struct {
	registry string
	refs     []string
	ids      map[string]string
}

// publish makes eight images that share: all have the base, every two a
// middle, and each has two layers of its own. They are small, because all of
// it is hashed in an emulated machine at each boot; many of their files are
// small too, as that is what a missing sync leaves empty.
func publish(ctx context.Context, r *harness.Registry) (*catalogue, error) {
	_, port, _ := strings.Cut(r.Host, ":")
	c := &catalogue{registry: blackout.Gateway + ":" + port, ids: map[string]string{}}
	base := layer("base", 60, 300<<10)
	for i := range 8 {
		middle := layer(fmt.Sprintf("middle%d", i/2), 20, 150<<10)
		own := layer(fmt.Sprintf("own%d", i), 12, 80<<10)
		top := layer(fmt.Sprintf("top%d", i), 5, 40<<10)
		top.File("base/.wh.file7", nil, 0o644) // a whiteout
		img, err := harness.BuildImage(harness.ImageSpec{Cmd: []string{"x"}, Layers: []*harness.Layer{base, middle, own, top}})
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("power/image%d", i)
		if _, err := r.Push(ctx, name, "1", img); err != nil {
			return nil, err
		}
		ref := c.registry + "/" + name + ":1"
		c.refs = append(c.refs, ref)
		c.ids[ref] = strings.TrimPrefix(img.ConfigID, "sha256:")
	}
	return c, nil
}

// layer has a directory with small files of noise, a big one, links and empty ones.
func layer(name string, small, big int) *harness.Layer {
	seed := [32]byte{}
	copy(seed[:], name)
	random := rand.NewChaCha8(seed)
	noise := func(size int) []byte {
		b := make([]byte, size)
		_, _ = random.Read(b) // never fails
		return b
	}
	l := &harness.Layer{}
	l.Dir(name)
	for i := range small {
		l.File(fmt.Sprintf("%s/file%d", name, i), noise(int(random.Uint64()%6000)), 0o640)
	}
	l.File(name+"/empty", nil, 0o755)
	l.File(name+"/big", noise(big), 0o755) // the mode of its hard link, which is the same file
	l.Symlink(name+"/symlink", "big")
	l.HardLink(name+"/hardlink", name+"/big")
	return l
}

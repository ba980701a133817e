package main

import (
	"context"
	"fmt"
	"slices"
)

// pulled is what is pulled, by case; empty where nobody asked for the case.
type pulled struct {
	big, sibling, zstd, many string
	five                     []string
	chunked, update          string
	single30, single300      string
	updateSize               int // bytes of the update's one layer
	bigFiles                 int
}

// Uncompressed sizes, in bytes. The big image's are 300 MB together, uneven as
// in an image that somebody made.
var (
	bigSizes  = []int{75e6, 60e6, 50e6, 40e6, 30e6, 20e6, 15e6, 10e6}
	manySizes = slices.Repeat([]int{1e6}, 40)
	baseSizes = []int{40e6, 30e6, 20e6, 10e6}
	ownSizes  = slices.Repeat([]int{10e6}, 5)
)

// contents are the files of every layer. All are dealt whatever is wanted, so
// that an image is the same in every run.
type contents struct {
	big, other, many, base, own [][]file
	chunked, update             []file
}

func deal() (*contents, error) {
	d, err := newDeck()
	if err != nil {
		return nil, err
	}
	c := &contents{
		big: d.take(bigSizes...), other: d.take(10e6), many: d.take(manySizes...),
		base: d.take(baseSizes...), own: d.take(ownSizes...), chunked: d.take(60e6)[0], update: d.take(6e6)[0],
	}
	for n, f := range c.chunked { // one file in ten is another
		if n%10 != 0 {
			c.update = append(c.update, f)
		}
	}
	return c, d.missing()
}

// build makes the images of the wanted steps and puts them into the registry.
func build(ctx context.Context, r *registry, wanted func(steps ...string) bool) (*pulled, error) {
	c, err := deal()
	if err != nil {
		return nil, err
	}
	i := &pulled{bigFiles: len(slices.Concat(c.big...))}
	for _, b := range []struct {
		steps []string
		make  func(*registry, *contents) error
	}{
		{[]string{big, sibling, ten}, i.makeBig},
		{[]string{many}, i.makeMany},
		{[]string{five}, i.makeFive},
		{[]string{zstdBig}, i.makeZstd},
		{[]string{chunked, update}, i.makeChunked},
		{[]string{single30, single300}, i.makeSingle},
	} {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !wanted(b.steps...) {
			continue
		}
		if err := b.make(r, c); err != nil {
			return nil, err
		}
	}
	return i, nil
}

func (i *pulled) makeBig(r *registry, c *contents) error {
	l, err := asGzip.layers(append(slices.Clone(c.big), c.other...)...)
	if err != nil {
		return err
	}
	last := len(c.big) - 1
	if i.big, err = r.imageOf("big", l[:last+1]...); err != nil {
		return err
	}
	i.sibling, err = r.imageOf("sibling", append(slices.Clone(l[:last]), l[last+1])...)
	return err
}

func (i *pulled) makeMany(r *registry, c *contents) error {
	l, err := asGzip.layers(c.many...)
	if err != nil {
		return err
	}
	i.many, err = r.imageOf("many", l...)
	return err
}

func (i *pulled) makeFive(r *registry, c *contents) error {
	base, err := asGzip.layers(c.base...)
	if err != nil {
		return err
	}
	own, err := asGzip.layers(c.own...)
	if err != nil {
		return err
	}
	for n, l := range own {
		ref, err := r.imageOf(fmt.Sprintf("five-%d", n), append(slices.Clone(base), l)...)
		if err != nil {
			return err
		}
		i.five = append(i.five, ref)
	}
	return nil
}

func (i *pulled) makeZstd(r *registry, c *contents) error {
	l, err := asZstd.layers(c.big...)
	if err != nil {
		return err
	}
	i.zstd, err = r.imageOf("zstd", l...)
	return err
}

// makeChunked makes an image and its update.
func (i *pulled) makeChunked(r *registry, c *contents) error {
	l, err := asChunked.layers(c.chunked, c.update)
	if err != nil {
		return err
	}
	if i.chunked, err = r.imageOf("chunked", l[0]); err != nil {
		return err
	}
	i.updateSize = len(l[1].blob)
	i.update, err = r.imageOf("update", l[1])
	return err
}

// makeSingle makes two images of one layer, the one ten times the other.
func (i *pulled) makeSingle(r *registry, c *contents) error {
	l, err := asGzip.layers(slices.Concat(c.big...), c.big[4])
	if err != nil {
		return err
	}
	if i.single300, err = r.imageOf("single300", l[0]); err != nil {
		return err
	}
	i.single30, err = r.imageOf("single30", l[1])
	return err
}

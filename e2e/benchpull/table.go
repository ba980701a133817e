package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/troupe-run/troupe/e2e/verdict"
)

var stepOrder = []string{big, sibling, many, ten, five, zstdBig, chunked, update, single30, single300}

var contenderOrder = []string{troupe, containerd, floorIgzip, floorKlauspost, viaSkopeo}

// table is Markdown that also reads well in a terminal: what was measured,
// then what was wanted.
func table(r results, i *pulled) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("| pull                | by              | wall s | then syncfs s | CPU s | peak MiB | sent MB | sent again MB |")
	line("| ------------------- | --------------- | -----: | ------------: | ----: | -------: | ------: | ------------: |")
	for _, step := range stepOrder {
		for _, c := range contenderOrder {
			if m, ok := r.median(step, c); ok {
				line("| %-19s | %-15s | %6.2f | %13.2f | %5.2f | %8d | %7.1f | %13.1f |", step, c,
					m.Wall, m.Sync, m.CPU, m.Peak>>20, float64(m.Sent)/1e6, float64(m.Resent)/1e6)
			}
		}
	}
	return b.String() + "\n" + verdict.Table("other", targets(r, i))
}

// targets leaves out what was not measured.
func targets(r results, i *pulled) []verdict.Target {
	var all []verdict.Target
	for _, t := range []struct {
		step  string
		limit float64
	}{{big, 0.6}, {sibling, 0.6}, {many, 0.6}, {ten, 0.5}, {five, 0.5}, {zstdBig, 0.6}} {
		ours, ok := r.median(t.step, troupe)
		theirs, measured := r.median(t.step, containerd)
		if ok && measured {
			all = append(all, verdict.AtMost("wall s: "+t.step+", to containerd's", t.limit, ours.Wall, theirs.Wall))
		}
	}
	all = append(all, toTheFloor(r)...)
	all = append(all, traffic(r, i)...)
	small, ok := r.median(single30, troupe)
	large, measured := r.median(single300, troupe)
	if ok && measured {
		all = append(all, verdict.AtMost("peak MiB grows when a layer does by 257 MiB", 0.05, mib(large.Peak-small.Peak), mib(270e6)))
	}
	return all
}

// toTheFloor compares until the data is on disk, whoever syncs.
func toTheFloor(r results) (all []verdict.Target) {
	for _, step := range []string{big, zstdBig} {
		ours, ok := r.median(step, troupe)
		name := floorIgzip
		bare, measured := r.median(step, name)
		if !measured {
			name = floorKlauspost
			bare, measured = r.median(step, name)
		}
		if ok && measured {
			all = append(all, verdict.AtMost("wall s with syncfs: "+step+", to "+name, 1.3, ours.Wall+ours.Sync, bare.Wall+bare.Sync))
		}
	}
	return all
}

// traffic wants each blob sent once at most, and of an update's layer, of
// whose files nine in ten are there, a third at most. Blobs that come in ranges
// are left out of the first: the headers of their parts are counted too.
func traffic(r results, i *pulled) (all []verdict.Target) {
	var again, sent int64
	for _, step := range stepOrder {
		if m, ok := r.median(step, troupe); ok && step != chunked && step != update {
			again, sent = again+m.Resent, sent+m.Sent
		}
	}
	if sent > 0 {
		all = append(all, verdict.AtMost("MB sent more than once, of all", 0, float64(again)/1e6, float64(sent)/1e6))
	}
	if m, ok := r.median(update, troupe); ok {
		all = append(all, verdict.AtMost("MB sent for the update in zstd:chunked, of its layer", 0.34, float64(m.Sent)/1e6, float64(i.updateSize)/1e6))
	}
	return all
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func page(text string, files int, others float64, o options) string {
	return fmt.Sprintf("# Image pulls: Troupe beside containerd\n\n"+
		"Made by `make bench-pull` on %s: %s; %.1f cores busy with something else when it began. Medians of %d runs, the runtimes taking turns. Read the\n"+
		"figures as ratios: the machine is small.\n\n"+
		"Each pull is on a journaled ext4 of its own, made for it, whose device is a file on tmpfs; the registry serves from\n"+
		"memory over loopback. The images are of files of this machine's /usr, 300 MB (%d files) in 8 layers the big one (its\n"+
		"sibling has another last layer). containerd is what `tools/peers/go.mod` pins, with its defaults; all find the same `igzip`.\n\n"+
		"*wall*: PullImage over CRI, until the last answer. *then syncfs*: what the answer had left to a power cut (containerd's\n"+
		"default is not to sync layers). *CPU*: of the daemon and its children. *peak*: their anonymous memory, looked at every\n"+
		"10 ms. *sent*: by the registry, of blobs; *again*: more than each blob once. *floor*: download, both SHA-256, gunzip and\n"+
		"unpack by the bare libraries, all layers at once, then syncfs (in its wall). *skopeo copy*: Debian's, copy.Image\n"+
		"into the storage library, without syncing.\n\n%s",
		time.Now().UTC().Format("2006-01-02"), verdict.Machine(), others, o.runs, files, text)
}

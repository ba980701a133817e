package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/troupe-run/troupe/backends"
	"golang.org/x/sys/unix"
)

// past is what a daemon writes down for the next one, <root>/last-run.json. It
// is for people: what is on the node is looked at, and never concluded from
// this file. So it may be lost, torn or anybody's.
type past struct {
	Version string `json:"version"` // of the daemon
	Boot    string `json:"boot"`    // of the node
	Clean   bool   `json:"clean"`   // it ended by itself, with all records on the disk
}

const pastName = "last-run.json"

// readPast is nil when there was no daemon, or nothing is known of it.
func readPast(root string) *past {
	// Whatever has come to lie there must not hold up the start.
	f, err := os.OpenFile(filepath.Join(root, pastName), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, 4096))
	var p past
	if err != nil || json.Unmarshal(text, &p) != nil || p.Version == "" {
		return nil
	}
	return &p
}

func (p past) write(root string) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	path := filepath.Join(root, pastName)
	err = os.WriteFile(path+".new", text, 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		_ = os.Remove(path + ".new")
		return fmt.Errorf("note how this daemon ran: %w", err)
	}
	return nil
}

// since says what has happened since the daemon of p, each with what comes of
// it. None of it asks for a wipe.
func (p *past) since(version, boot string) (happened []string) {
	if p == nil {
		return []string{"no earlier run is known"}
	}
	if p.Boot != boot {
		happened = append(happened, "the node was restarted: its pods are shown as not ready, with what is known of their containers, until the kubelet removes them; their addresses are free")
		if !p.Clean {
			happened = append(happened, "it was not shut down cleanly: records and images that did not reach the disk whole are put aside, and pulled or made again")
		}
	} else if !p.Clean {
		happened = append(happened, "the daemon was killed: pods and containers live on")
	}
	if p.Version != version {
		happened = append(happened, fmt.Sprintf("the version was %s and is %s: records and images of older versions are read as they are; a newer version's records are put aside and come back with it", p.Version, version))
	}
	return happened
}

// note tells what has happened since the last daemon, and writes down for the
// next that this one has not ended cleanly yet. It never keeps the daemon from
// its pods.
func (d *daemon) note() {
	root, now := d.config.Troupe.Root, past{Version: buildOf().Version, Boot: backends.BootID()}
	if last := readPast(root); last != nil {
		for _, what := range last.since(now.Version, now.Boot) {
			d.log.Info("since the last run", "what", what)
		}
	}
	write := func() {
		if err := now.write(root); err != nil {
			d.log.Warn("the next daemon will not know of this one's run", "error", err)
		}
	}
	write()
	d.atEnd(func() error {
		if d.tree != nil { // else it never served
			now.Clean = true
			write()
		}
		return nil
	})
}

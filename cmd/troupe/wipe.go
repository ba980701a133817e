package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/troupe-run/troupe/actors"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/cmd/troupe/config"
	"github.com/troupe-run/troupe/messages"
)

// wipeLimit is how long a wipe may take in all.
const wipeLimit = 10 * time.Minute

func wipeCommand(o *options, stderr io.Writer) *cobra.Command {
	var force, keepImages bool
	cmd := &cobra.Command{
		Use:   "wipe",
		Short: "Say whether anything must be wiped (nothing ever must); with --force remove all pods and their images",
		Long: "wipe stands where `crio wipe` stands, before the daemon's start. It looks whether the\n" +
			"node was restarted, whether that was clean, and whether this is another version, says\n" +
			"what comes of it, and changes nothing: none of these needs a wipe.\n\n" +
			"With --force it removes every pod and container of this daemon's directories, running\n" +
			"or not, with all they hold on the node, and the images they were made from, unless\n" +
			"others (podman) use those. The daemon must not run.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := config.Load(o.source)
			if err != nil {
				return err
			}
			if !force {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing needs to be wiped")
				for _, what := range readPast(loaded.Troupe.Root).since(buildOf().Version, backends.BootID()) {
					fmt.Fprintln(cmd.OutOrStdout(), "  "+what)
				}
				return nil
			}
			if os.Geteuid() != 0 {
				return errors.New("wipe: needs root: it kills containers and unmounts their files")
			}
			unlock, err := lockDirs(loaded.Troupe.Root, loaded.Troupe.Run)
			if err != nil {
				return fmt.Errorf("wipe: %w", err)
			}
			defer unlock()
			ctx, cancel := context.WithTimeout(cmd.Context(), wipeLimit)
			defer cancel()
			m, err := buildMachine(loaded.Config, newLogging(stderr, loaded.Config).Logger)
			if err != nil {
				return fmt.Errorf("wipe: the node cannot be used: %w", err)
			}
			w := wiper{node: m.Node, out: cmd.OutOrStdout(), images: !keepImages}
			return errors.Join(w.run(ctx), m.close())
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "remove all pods, containers and their images")
	cmd.Flags().BoolVar(&keepImages, "keep-images", false, "with --force: leave the images")
	return cmd
}

// wiper empties a node that no daemon serves.
type wiper struct {
	node   *backends.Node
	out    io.Writer
	images bool // those of the containers too
	count  map[string]int
	errs   []error
}

func (w *wiper) run(ctx context.Context) error {
	w.count = map[string]int{}
	records, _, err := w.node.Journal.Load(ctx)
	if err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- w.node.Runtime.Connect(ctx, func(messages.ProcessState) {}, func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-ended:
		return fmt.Errorf("wipe: what runs cannot be asked for, so nothing was removed: %w", err)
	}
	// Processes first, also those that only their cgroup tells of: nothing is
	// unmounted under a living one.
	for _, processes := range []bool{true, false} {
		if w.drop(ctx, processes); len(w.errs) > 0 {
			break
		}
	}
	if err := w.node.Network.GC(ctx, func() []string { return nil }); err != nil && messages.KindOf(err) != messages.Unavailable {
		fmt.Fprintf(w.out, "the network's plugins could not be told to free everything (CNI GC); the daemon tells them at its start: %v\n", err)
	}
	if w.images && len(w.errs) == 0 {
		w.removeImages(ctx, actors.RecordedImages(records))
	}
	for _, kind := range sortedKinds(w.count) {
		fmt.Fprintf(w.out, "removed %d: %s\n", w.count[kind], kind)
	}
	if len(w.count) == 0 && len(w.errs) == 0 {
		fmt.Fprintln(w.out, "there was nothing to remove")
	}
	if m, ok := w.node.Runtime.(interface{ Quit(context.Context) error }); ok && len(w.errs) == 0 {
		w.errs = append(w.errs, m.Quit(ctx))
	}
	return errors.Join(w.errs...)
}

// drop drops what the holders have, in their order.
func (w *wiper) drop(ctx context.Context, processes bool) {
	for _, h := range w.node.Holders() {
		held, err := h.Held(ctx)
		if err != nil {
			w.errs = append(w.errs, fmt.Errorf("wipe: %w", err))
			return
		}
		for _, one := range held {
			if (one.Kind == backends.HeldProcess) != processes {
				continue
			}
			if err := h.Drop(ctx, one); err != nil {
				w.errs = append(w.errs, fmt.Errorf("wipe: remove %s %s of pod %s: %w", one.Kind, one.Name, one.Pod, err))
				continue
			}
			w.count[one.Kind]++
		}
		if len(w.errs) > 0 {
			return // what is beneath stays for the next try
		}
	}
}

func (w *wiper) removeImages(ctx context.Context, ids []string) {
	for _, id := range ids {
		if err := w.node.Images.Remove(ctx, id); err != nil {
			fmt.Fprintf(w.out, "image %s stays: %v\n", short(id), err)
			continue
		}
		w.count["image"]++
	}
}

func sortedKinds(count map[string]int) []string {
	var kinds []string
	for kind := range count {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	return kinds
}

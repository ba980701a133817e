package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	debugv1 "github.com/troupe-run/troupe/messages/debugv1"
	"google.golang.org/grpc"
)

func imagesCommand(o *options) *cobra.Command {
	watch := false
	cmd := inspection(o, &cobra.Command{
		Use:   "images",
		Short: "Show the images in the store; with --watch, how far each layer of the pulls under way is",
	}, debugv1.NewImagesClient, func(ctx context.Context, c debugv1.ImagesClient, _ []string) (*debugv1.ListImagesResponse, error) {
		return c.List(ctx, &debugv1.ListImagesRequest{})
	}, showImages)
	cmd.Flags().BoolVar(&watch, "watch", false, "show pulls until interrupted: drawn anew on a terminal, a line for each change on a pipe")
	list, on := cmd.RunE, debugTarget(cmd.Name())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !watch {
			return list(cmd, args)
		}
		if cmd.Flags().Changed("output") {
			return usageError{fmt.Errorf("--watch and --output exclude each other; `troupe images pulls -o json` shows the pulls once")}
		}
		on.socket = cmd.Flag("socket").Value.String()
		return on.endlessly(cmd.Context(), o.source, func(ctx context.Context, conn *grpc.ClientConn) error {
			return watchPulls(ctx, debugv1.NewImagesClient(conn), cmd.OutOrStdout())
		})
	}
	cmd.AddCommand(pullsCommand(o), loadCommand(o))
	return cmd
}

func showImages(t *table, r *debugv1.ListImagesResponse) {
	t.row("IMAGE", "ID", "SIZE", "UNIQUE", "LAYERS", "IN USE BY", "PINNED")
	for _, i := range r.GetImages() {
		names := i.GetTags()
		if len(names) == 0 {
			names = i.GetDigests()
		}
		if len(names) == 0 {
			names = []string{""}
		}
		pinned := "no"
		if i.GetPinned() {
			pinned = "yes"
		}
		for _, name := range names {
			t.row(name, short(i.GetId()), size(int64(i.GetSize())), size(i.GetUnique()), i.GetLayers(), containers(i.GetContainers()), pinned)
		}
	}
}

func containers(n int64) string {
	switch n {
	case 0:
		return "-"
	case 1:
		return "1 container"
	}
	return fmt.Sprintf("%d containers", n)
}

func pullsCommand(o *options) *cobra.Command {
	return inspection(o, &cobra.Command{
		Use:   "pulls",
		Short: "Show once how far the pulls under way are, and how the last ones ended",
	}, debugv1.NewImagesClient, func(ctx context.Context, c debugv1.ImagesClient, _ []string) (*debugv1.PullsResponse, error) {
		return c.Pulls(ctx, &debugv1.PullsRequest{})
	}, showPulls)
}

func showPulls(t *table, r *debugv1.PullsResponse) {
	t.row("IMAGE", "STATE", "FOR", "LAYERS", "RECEIVED", "OF", "RATE", "LEFT", "STALLED FOR", "WAITERS", "ERROR")
	for _, p := range append(r.GetEnded(), r.GetPulls()...) {
		left := ""
		if p.GetLeft() != nil {
			left = duration(p.GetLeft().AsDuration())
		}
		t.row(pullName(p), p.GetState(), ago(p.GetSince()), fmt.Sprintf("%d/%d", readyLayers(p), len(p.GetLayers())),
			size(p.GetReceived()), size(p.GetSize()), size(p.GetRate())+"/s", left, ago(p.GetStalledSince()), p.GetWaiters(), p.GetError())
	}
}

func pullName(p *debugv1.Pull) string {
	switch {
	case p.GetSource() == "":
		return p.GetReference()
	case p.GetReference() == "":
		return p.GetSource()
	}
	return p.GetReference() + " from " + p.GetSource()
}

func readyLayers(p *debugv1.Pull) (n int) {
	for _, l := range p.GetLayers() {
		if finished(l) {
			n++
		}
	}
	return n
}

func loadCommand(o *options) *cobra.Command {
	var names []string
	on := debugTarget("load")
	cmd := &cobra.Command{
		Use:   "load SOURCE",
		Short: "Load an image from files of this node: docker-archive:FILE, oci-archive:FILE, oci:DIR or dir:DIR",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			source, err := absoluteSource(args[0])
			if err != nil {
				return err
			}
			return on.endlessly(cmd.Context(), o.source, func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := debugv1.NewImagesClient(conn).Load(ctx, &debugv1.LoadRequest{Source: source, Names: names})
				for _, id := range r.GetImageIds() {
					fmt.Fprintln(cmd.OutOrStdout(), id)
				}
				return err
			})
		},
	}
	cmd.Flags().StringArrayVar(&names, "name", nil, "what the image is called in the store (again for each name; default what it is called in the source)")
	on.flag(cmd)
	return cmd
}

// absoluteSource makes the path of a source one that the daemon finds: it has
// another working directory.
func absoluteSource(source string) (string, error) {
	transport, path, found := strings.Cut(source, ":")
	if !found || path == "" {
		return "", usageError{fmt.Errorf("load %s: name the kind of source before a colon: docker-archive:FILE, oci-archive:FILE, oci:DIR or dir:DIR", source)}
	}
	if filepath.IsAbs(path) {
		return source, nil
	}
	here, err := filepath.Abs(".")
	if err != nil {
		return "", fmt.Errorf("load %s: %w", source, err)
	}
	return transport + ":" + here + "/" + path, nil // what follows a further colon is no path
}

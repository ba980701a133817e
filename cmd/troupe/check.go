package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	debugv1 "github.com/troupe-run/troupe/messages/debugv1"
	"golang.org/x/term"
	"google.golang.org/grpc"
)

func checkCommand(o *options) *cobra.Command {
	var out output
	var repair bool
	var only string
	on := debugTarget("check")
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look for leftovers on the node and for damage in images; exit 1 when there is some",
		Long: "check looks through the node for what is there under Troupe's names and belongs to\n" +
			"no pod: processes, cgroups, mounts, namespaces, networks, directories, records. The\n" +
			"daemon removes each once it has had no owner for sweep_grace ([troupe], 5m).\n\n" +
			"Then it reads every layer and every image's data again and compares them with what\n" +
			"was pulled. What is damaged is put aside (<root>/troupe-quarantine): its images are\n" +
			"not listed until they are pulled again, which fetches the damaged layer alone.\n" +
			"Containers that run keep what they have. The node goes on meanwhile.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if only != "" && only != "images" && only != "leftovers" {
				return usageError{fmt.Errorf("--only %s: give images or leftovers", only)}
			}
			answer := &debugv1.CheckResponse{}
			err := on.endlessly(cmd.Context(), o.source, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
				client := debugv1.NewIntrospectionClient(conn)
				left := &debugv1.LeftoversResponse{}
				if only != "images" {
					if left, err = client.Leftovers(ctx, &debugv1.LeftoversRequest{}); err != nil {
						return err
					}
				}
				if only != "leftovers" {
					defer showProgress(ctx, client, cmd.ErrOrStderr())()
					if answer, err = client.Check(ctx, &debugv1.CheckRequest{Repair: repair}); err != nil {
						return err
					}
				}
				answer.Leftovers = left.GetLeftovers()
				return nil
			})
			if err != nil {
				return err
			}
			err = out.print(cmd, answer, func(t *table) {
				if only != "images" {
					showLeftovers(t, answer)
				}
				if only != "leftovers" {
					showCheck(t, answer)
				}
			})
			if err != nil {
				return err
			}
			return errors.Join(unowned(answer), verdict(answer))
		},
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "pull the damaged images again, with the node's credentials")
	cmd.Flags().StringVar(&only, "only", "", "look only for `images` that are damaged, or only for leftovers")
	on.flag(cmd)
	out.flag(cmd)
	return cmd
}

func showLeftovers(t *table, r *debugv1.CheckResponse) {
	if len(r.GetLeftovers()) == 0 {
		t.line("everything on the node has an owner")
		return
	}
	t.row("LEFTOVER", "NAME", "POD", "UNOWNED FOR", "WHAT WILL BE DONE", "IN", "LAST ERROR")
	for _, l := range r.GetLeftovers() {
		t.row(l.GetKind(), l.GetName(), short(l.GetPodSandboxId()), ago(l.GetSince()), l.GetAction(),
			duration(time.Until(l.GetDue().AsTime())), l.GetError())
	}
}

// unowned is nil when everything has an owner.
func unowned(r *debugv1.CheckResponse) error {
	if n := len(r.GetLeftovers()); n > 0 {
		return fmt.Errorf("check: %d things on the node have no owner; the daemon removes them, nothing needs to be done", n)
	}
	return nil
}

func showCheck(t *table, r *debugv1.CheckResponse) {
	if len(r.GetDamage()) == 0 {
		t.line(fmt.Sprintf("%d layers read, none is damaged", r.GetLayers()))
		return
	}
	t.row("DAMAGED LAYER", "IMAGES", "WHAT IS WRONG")
	for _, d := range r.GetDamage() {
		what := d.GetWhat()
		if !d.GetQuarantined() {
			what += " (left where it is)"
		}
		t.row(short(d.GetLayer()), strings.Join(d.GetImages(), " "), what)
	}
	for _, repair := range r.GetRepairs() {
		how := "pulled again"
		if repair.GetError() != "" {
			how = "could not be pulled again: " + repair.GetError()
		}
		t.line(strings.Map(onOneLine, repair.GetImage()+" "+how))
	}
}

// verdict is nil when all is well, or well again.
func verdict(r *debugv1.CheckResponse) error {
	if len(r.GetDamage()) == 0 {
		return nil
	}
	if len(r.GetRepairs()) == 0 {
		return fmt.Errorf("check: %d of %d layers are damaged; pull their images again, or run `troupe check --repair`", len(r.GetDamage()), r.GetLayers())
	}
	failed := 0
	for _, repair := range r.GetRepairs() {
		if repair.GetError() != "" {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("check: %d of %d damaged images could not be pulled again", failed, len(r.GetRepairs()))
	}
	return nil
}

// showProgress says on a terminal how far the check is, until it is stopped.
func showProgress(ctx context.Context, client debugv1.IntrospectionClient, to io.Writer) (stop func()) {
	file, ok := to.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer fmt.Fprint(to, "\r\x1b[K")
		for ticks := time.NewTicker(time.Second / 4); ; {
			select {
			case <-ctx.Done():
				ticks.Stop()
				return
			case <-ticks.C:
			}
			tree, err := client.Tree(ctx, &debugv1.TreeRequest{})
			if err != nil {
				continue
			}
			for _, a := range tree.GetActors() {
				if a.GetKind() == "checker" {
					fmt.Fprintf(to, "\r%s %s\x1b[K", a.GetState(), a.GetStep())
				}
			}
		}
	}()
	return func() { cancel(); <-done }
}

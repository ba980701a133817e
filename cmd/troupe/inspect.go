package main

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"
	debugv1 "github.com/troupe-run/troupe/messages/debugv1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// inspection is a command that asks the debug socket one question.
func inspection[C any, R proto.Message](o *options, cmd *cobra.Command, client func(grpc.ClientConnInterface) C,
	ask func(context.Context, C, []string) (R, error), show func(*table, R),
) *cobra.Command {
	var out output
	on := debugTarget(cmd.Name())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var answer R
		err := on.with(cmd.Context(), o.source, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
			answer, err = ask(ctx, client(conn), args)
			return err
		})
		if err != nil {
			return err
		}
		return out.print(cmd, answer, func(t *table) { show(t, answer) })
	}
	on.flag(cmd)
	out.flag(cmd)
	return cmd
}

func treeCommand(o *options) *cobra.Command {
	return inspection(o, &cobra.Command{
		Use:   "tree",
		Short: "Show every actor: what it is doing, since when, and what it owns",
	}, debugv1.NewIntrospectionClient, func(ctx context.Context, c debugv1.IntrospectionClient, _ []string) (*debugv1.TreeResponse, error) {
		return c.Tree(ctx, &debugv1.TreeRequest{})
	}, showTree)
}

func showTree(t *table, r *debugv1.TreeResponse) {
	t.row("ACTOR", "STATE", "SINCE", "STEP", "QUEUE", "RESTARTS", "OWNS")
	for _, a := range r.GetActors() {
		depth := strings.Count(strings.Trim(a.GetPath(), "/"), "/")
		t.row(strings.Repeat("  ", depth)+actorName(a), a.GetState(), ago(a.GetSince()), a.GetStep(),
			a.GetMailbox(), a.GetRestarts(), strings.Join(a.GetOwns(), " "))
	}
}

// actorName is the last part of the path with long ids cut.
func actorName(a *debugv1.Actor) string {
	kind, id, ok := strings.Cut(path.Base(a.GetPath()), "-")
	if !ok {
		return short(kind)
	}
	return kind + "-" + short(strings.TrimPrefix(id, "sha256:"))
}

func timelineCommand(o *options) *cobra.Command {
	return inspection(o, &cobra.Command{
		Use:   "timeline [POD]",
		Short: "Show what a pod (by id or its beginning) and its containers went through; without one, all pods and pulls",
		Args:  cobra.MaximumNArgs(1),
	}, debugv1.NewIntrospectionClient, func(ctx context.Context, c debugv1.IntrospectionClient, args []string) (*debugv1.TimelineResponse, error) {
		return c.Timeline(ctx, &debugv1.TimelineRequest{PodSandboxId: strings.Join(args, "")})
	}, showTimeline)
}

func showTimeline(t *table, r *debugv1.TimelineResponse) {
	if len(r.GetLives()) == 0 {
		t.line("no pods")
	}
	for i, life := range r.GetLives() {
		if i > 0 && life.GetContainerId() == "" {
			t.line("")
		}
		showLife(t, life)
	}
}

func showLife(t *table, life *debugv1.Life) {
	what, id := "pod", life.GetPodSandboxId()
	switch {
	case life.GetContainerId() != "":
		what, id = "container", life.GetContainerId()
	case id == "":
		what = "pull"
	}
	now := life.GetState()
	if life.GetStep() != "" {
		now += fmt.Sprintf(", in step %s for %s", life.GetStep(), ago(life.GetSince()))
	}
	if life.GetError() != "" {
		now += ": " + life.GetError()
	}
	t.line(strings.Map(onOneLine, strings.Join(strings.Fields(what+" "+short(id)+" "+life.GetName()+": "+now), " ")))
	var first time.Time
	for _, e := range life.GetEdges() {
		at := e.GetAt().AsTime()
		if first.IsZero() {
			first = at
		}
		t.row("  "+at.Local().Format("15:04:05.000"), "+"+duration(at.Sub(first)), edge(e), took(e), e.GetError())
	}
}

// edge is "starting → ready", or the step that was taken within a state.
func edge(e *debugv1.Edge) string {
	switch {
	case e.GetFrom() == e.GetTo() && e.GetStep() != "":
		return "  " + e.GetStep()
	case e.GetStep() != "":
		return fmt.Sprintf("%s → %s (%s)", orDash(e.GetFrom()), e.GetTo(), e.GetStep())
	}
	return orDash(e.GetFrom()) + " → " + e.GetTo()
}

func took(e *debugv1.Edge) string {
	if d := e.GetTook().AsDuration(); d > 0 {
		return duration(d)
	}
	return ""
}

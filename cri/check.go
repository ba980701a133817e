package cri

import (
	"context"

	"github.com/troupe-run/troupe/messages"
	debugv1 "github.com/troupe-run/troupe/messages/debugv1"
)

// Check reads the image store again, for damage.
func (d *Debug) Check(ctx context.Context, r *debugv1.CheckRequest) (*debugv1.CheckResponse, error) {
	report, err := ask(ctx, d.server.node, messages.CheckImages{Call: callOf(ctx), Repair: r.GetRepair()})
	if err != nil {
		return nil, err
	}
	response := &debugv1.CheckResponse{Layers: int64(report.Layers)}
	for _, found := range report.Damage {
		response.Damage = append(response.Damage, &debugv1.Damage{
			Layer: found.Layer, Images: found.Names(), What: printable(found.What), Quarantined: found.Quarantined,
		})
	}
	for _, repair := range report.Repairs {
		response.Repairs = append(response.Repairs, &debugv1.Repair{Image: repair.Image.Name, Error: printable(repair.Err)})
	}
	return response, nil
}

// Leftovers looks through the node for what no pod owns.
func (d *Debug) Leftovers(ctx context.Context, _ *debugv1.LeftoversRequest) (*debugv1.LeftoversResponse, error) {
	found, err := ask(ctx, d.server.node, messages.FindLeftovers{Call: callOf(ctx)})
	if err != nil {
		return nil, err
	}
	response := &debugv1.LeftoversResponse{}
	for _, l := range found {
		response.Leftovers = append(response.Leftovers, &debugv1.Leftover{
			Kind: l.Kind, Name: printable(l.Name), PodSandboxId: l.Pod, ContainerId: l.Container,
			Since: stamp(l.Since), Due: stamp(l.Due), Action: l.Action, Error: printable(l.Err),
		})
	}
	return response, nil
}

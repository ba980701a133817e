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

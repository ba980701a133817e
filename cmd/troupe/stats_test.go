package main

import (
	"slices"
	"testing"

	"github.com/troupe-run/troupe/cmd/troupe/config"
	"github.com/troupe-run/troupe/cri"
)

func TestTheConfigurationKnowsTheGatewaysGroupsOfMetrics(t *testing.T) {
	if got, want := config.PodMetrics(), cri.MetricGroups(); !slices.Equal(got, want) {
		t.Errorf("included_pod_metrics takes %v, the gateway has %v", got, want)
	}
}

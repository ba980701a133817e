package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

var statsOptions = []Option{
	honoured("crio.stats.collection_period", 0, func(c *Config) *int { return &c.Stats.Period },
		"For how many seconds a measurement of pods and containers may be answered again; 0: each request measures. Nothing is measured while nobody asks.",
		atLeast(0)),
	honoured("crio.stats.stats_collection_period", 0, func(c *Config) *int { return &c.Stats.OldPeriod },
		"Old name of collection_period; holds when that is 0.", atLeast(0)),
	honoured("crio.stats.included_pod_metrics", []string{AllPodMetrics}, func(c *Config) *[]string { return &c.Stats.PodMetrics },
		"Which metrics the kubelet gets: \"all\", or some of "+strings.Join(podMetrics, ", ")+".", check(metricGroups)),
}

// AllPodMetrics stands for all groups of metrics.
const AllPodMetrics = "all"

// podMetrics are the groups the gateway has; a test compares.
var podMetrics = []string{
	"cpu", "memory", "memory_extra", "network", "oom", "process", "spec", "disk", "diskIO", "hugetlb", "pressure",
}

// PodMetrics are the groups of metrics that can be asked for one by one.
func PodMetrics() []string { return slices.Clone(podMetrics) }

func metricGroups(names []string) error {
	for _, name := range names {
		if name != AllPodMetrics && !slices.Contains(podMetrics, name) {
			return fmt.Errorf("has %q; use %q or some of: %s", name, AllPodMetrics, strings.Join(podMetrics, ", "))
		}
	}
	return nil
}

// UseCollectionPeriod is for how long a measurement is an answer.
func (c *Config) UseCollectionPeriod() time.Duration {
	period := c.Stats.Period
	if period == 0 {
		period = c.Stats.OldPeriod
	}
	return time.Duration(period) * time.Second
}

package config

import (
	"strings"
	"testing"
	"time"
)

func TestTheOldNameOfTheCollectionPeriodYieldsToTheNew(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"":                          0,
		"collection_period = 7":     7 * time.Second,
		"stats_collection_period=5": 5 * time.Second,
		"collection_period = 7\nstats_collection_period = 5": 7 * time.Second,
	} {
		if got := load(t, write(t, "[crio.stats]\n"+text, nil)).UseCollectionPeriod(); got != want {
			t.Errorf("%q gives %s, want %s", text, got, want)
		}
	}
}

func TestAMetricsGroupThatDoesNotExistIsRefusedWithThoseThatDo(t *testing.T) {
	_, err := Load(write(t, "[crio.stats]\nincluded_pod_metrics = [\"cpu\", \"gpu\"]", nil))
	if err == nil || !strings.Contains(err.Error(), `has "gpu"; use "all" or some of: cpu, memory`) {
		t.Errorf("got %v", err)
	}
	if got := load(t, write(t, "", nil)).Stats.PodMetrics; len(got) != 1 || got[0] != AllPodMetrics {
		t.Errorf("the default is %v, want all", got)
	}
}

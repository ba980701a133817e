package stats

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/troupe-run/troupe/messages"
)

func BenchmarkContainer(b *testing.B) {
	for name, whole := range map[string]bool{"stats": false, "metrics": true} {
		b.Run(name, func(b *testing.B) {
			m := meter(b)
			c, _ := m.world(b).run(b, "hold")
			b.ReportAllocs()
			for b.Loop() {
				_, err := m.Container(b.Context(), c, whole)
				ok(b, err)
			}
		})
	}
}

func BenchmarkNetworks(b *testing.B) {
	m := meter(b)
	var pods []*messages.PodSnapshot
	for i := range 50 {
		pods = append(pods, &messages.PodSnapshot{ID: string(rune('A' + i)), Namespaces: messages.Namespaces{Network: pinned(b, "eth0")}})
	}
	for b.Loop() {
		if got := m.Networks(b.Context(), pods); len(got) != len(pods) {
			b.Fatal(len(got))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(pods)), "ns/pod")
}

// BenchmarkWalk shows what a big layer costs.
func BenchmarkWalk(b *testing.B) {
	root := b.TempDir()
	for i := range 10_000 {
		dir := filepath.Join(root, fmt.Sprint(i%100))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := walk(b.Context(), root); err != nil {
			b.Fatal(err)
		}
	}
}

package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/troupe-run/troupe/cmd/troupe-sim/load"
)

// table is Markdown that also reads well in a terminal. Ratios are the peer
// over Troupe: above 1, Troupe is the better.
func table(reports map[string]*load.Report) string {
	var b strings.Builder
	b.WriteString("| milliseconds      | troupe p50 | p99       | containerd p50 | p99       | ratio p50 | p99    |\n")
	b.WriteString("| ----------------- | ---------: | --------: | -------------: | --------: | --------: | -----: |\n")
	ours, theirs := reports["troupe"], reports["containerd"]
	for _, call := range load.Calls {
		o, p := stat(ours, call), stat(theirs, call)
		fmt.Fprintf(&b, "| %-17s | %10s | %9s | %14s | %9s | %9s | %6s |\n", call,
			number(o.P50, "%.2f"), number(o.P99, "%.2f"), number(p.P50, "%.2f"), number(p.P99, "%.2f"),
			ratio(o.P50, p.P50), ratio(o.P99, p.P99))
	}
	b.WriteString("\n| memory (PSS)      | troupe MiB | containerd MiB | ratio |\n| ----------------- | ---------: | -------------: | ----: |\n")
	for i := range max(held(ours), held(theirs)) {
		o, p := memory(ours, i), memory(theirs, i)
		fmt.Fprintf(&b, "| %3d pods          | %10s | %14s | %5s |\n", max(o.Pods, p.Pods),
			number(mib(o), "%.1f"), number(mib(p), "%.1f"), ratio(mib(o), mib(p)))
	}
	return b.String()
}

func page(text string, reports map[string]*load.Report) string {
	var u unix.Utsname
	_ = unix.Uname(&u) // then the kernel is not named
	ours, theirs := reports["troupe"], reports["containerd"]
	return fmt.Sprintf("# Troupe beside containerd\n\n"+
		"Made by `make bench` on %s: %d cores, Linux %s, %s. Read the figures as ratios: the machine is small.\n\n"+
		"Both on the same tmpfs, CNI network (bridge, host-local, portmap by Debian's plugins), image and load, one\n"+
		"after the other: `troupe-sim load` runs %d pods through their lives, %d at a time, as the kubelet would (one\n"+
		"container, RuntimeDefault seccomp, memory limit, 3 ExecSync of `true`). Troupe %s; containerd %s with the runc\n"+
		"that `tools/peers/go.mod` pins. A ratio is containerd over Troupe.\n\n%s\n"+
		"PSS is that of the daemon and all its monitors or shims, not of the containers or the peer's pause processes.\n",
		time.Now().UTC().Format("2006-01-02"), runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]), osName(),
		ours.Pods, ours.Callers, ours.Version, theirs.Version, text)
}

func osName() string {
	text, _ := os.ReadFile("/etc/os-release")
	for _, line := range strings.Split(string(text), "\n") {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(name, `"`)
		}
	}
	return runtime.GOOS
}

func stat(r *load.Report, call string) load.Stat {
	if r == nil {
		return load.Stat{}
	}
	return r.Calls[call]
}

func held(r *load.Report) int {
	if r == nil {
		return 0
	}
	return len(r.Memory)
}

func memory(r *load.Report, i int) load.Memory {
	if i >= held(r) {
		return load.Memory{}
	}
	return r.Memory[i]
}

func mib(m load.Memory) float64 { return float64(m.PSSKiB) / 1024 }

func number(v float64, format string) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf(format, v)
}

func ratio(ours, theirs float64) string {
	if ours == 0 || theirs == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", theirs/ours)
}

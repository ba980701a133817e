// Command bench measures Troupe and containerd side by side in one run: same
// machine, same tmpfs, same CNI network, same image, same load (troupe-sim
// load). It prints a table and writes bench/results.json and bench/RESULTS.md.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/troupe-run/troupe/cmd/troupe-sim/load"
	"github.com/troupe-run/troupe/e2e/harness"
)

func main() {
	var o options
	flag.IntVar(&o.pods, "pods", 50, "pods to run through a whole life, for each runtime")
	flag.IntVar(&o.callers, "callers", 1, "pods at a time")
	flag.StringVar(&o.hold, "hold", "1,10,50", "numbers of pods to hold while memory is measured")
	flag.StringVar(&o.only, "only", "", "only this runtime: troupe or containerd")
	flag.StringVar(&o.out, "out", "bench", "directory for results.json and RESULTS.md, from the repository's root")
	flag.Parse()
	harness.Enter()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := bench(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	pods, callers   int
	hold, only, out string
}

// contender is a runtime under measurement.
type contender struct {
	name      string
	processes []string // binaries that are the runtime's own, pod by pod or not
	start     func(context.Context, *stage) (socket string, err error)
}

var contenders = []contender{
	{"troupe", []string{"troupe", "troupe-monitor", "troupe-keeper"}, startTroupe},
	{"containerd", []string{"containerd", "containerd-shim-runc-v2"}, startContainerd},
}

// bench gives each contender a lab of its own, one after the other, so that
// neither runs while the other is measured.
func bench(ctx context.Context, o options) error {
	reports := map[string]*load.Report{}
	for _, c := range contenders {
		if o.only != "" && o.only != c.name {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s: %d pods, %d at a time; then holding %s\n", c.name, o.pods, o.callers, o.hold)
		report, err := one(ctx, c, o)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		reports[c.name] = report
	}
	return publish(reports, o)
}

// stage is what is the same for every contender.
type stage struct {
	lab      *harness.Lab
	network  *harness.Network
	registry *harness.Registry
	image    string
}

func one(ctx context.Context, c contender, o options) (report *load.Report, err error) {
	s, err := setUp(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if closed := s.lab.Close(); err == nil {
			err = closed
		}
	}()
	socket, err := c.start(ctx, s)
	if err != nil {
		return nil, err
	}
	return run(ctx, s, c, socket, o)
}

func setUp(ctx context.Context) (*stage, error) {
	lab, err := harness.NewLab()
	if err != nil {
		return nil, err
	}
	s := &stage{lab: lab}
	if s.network, err = lab.NewNetwork(); err != nil {
		return nil, err
	}
	if err = s.network.Configure(); err != nil {
		return nil, err
	}
	if s.registry, err = lab.StartRegistry(ctx, harness.RegistryOptions{}); err != nil {
		return nil, err
	}
	image, err := harness.BuildImage(harness.ImageSpec{Cmd: []string{"sleep", "100000"}})
	if err != nil {
		return nil, err
	}
	s.image, err = s.registry.Push(ctx, "bench/busybox", "1", image)
	return s, err
}

func startTroupe(ctx context.Context, s *stage) (string, error) {
	d, err := s.lab.NewDaemon(harness.DaemonOptions{
		Network: s.network, Insecure: []string{s.registry.Host}, LogLevel: "info", // as in production
	})
	if err != nil {
		return "", err
	}
	return d.Socket, d.Start(ctx)
}

func startContainerd(ctx context.Context, s *stage) (string, error) {
	c, err := s.lab.StartContainerd(ctx, harness.ContainerdOptions{Network: s.network, Registry: s.registry.Host, Sandbox: s.image})
	if err != nil {
		return "", err
	}
	return c.Socket, nil
}

func run(ctx context.Context, s *stage, c contender, socket string, o options) (*load.Report, error) {
	sim, err := harness.Tool("troupe-sim")
	if err != nil {
		return nil, err
	}
	logs, err := s.lab.Mkdir("logs")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, sim, "load", "--json", "--socket", socket, "--image", s.image,
		"--pods", strconv.Itoa(o.pods), "--callers", strconv.Itoa(o.callers), "--hold", o.hold,
		"--processes", strings.Join(c.processes, ","), "--log-dir", logs, "--cgroup-parent", "/"+s.lab.Name)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("troupe-sim load: %w", err)
	}
	report := &load.Report{}
	return report, json.Unmarshal(out, report)
}

func publish(reports map[string]*load.Report, o options) error {
	root, err := harness.ProjectRoot()
	if err != nil {
		return err
	}
	text := table(reports)
	fmt.Println(text)
	if o.only != "" {
		return nil // half a comparison is not kept
	}
	dir := filepath.Join(root, o.out)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(reports, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "results.json"), append(raw, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "RESULTS.md"), []byte(page(text, reports)), 0o644)
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
)

// nriPatience: a test holds a plugin's answer for more than the two seconds
// that a plugin has by default.
const nriPatience = "nri_plugin_request_timeout = \"15s\""

// pass is one run through the suite.
type pass struct {
	name  string
	nodes int // tests at a time
}

// run makes a node, runs the suite on it and gives the node back.
func run(ctx context.Context, p pass, o options) (t tally, err error) {
	lab, err := harness.NewLab()
	if err != nil {
		return t, err
	}
	defer func() {
		lab.Abandon = t.failed > 0 || err != nil
		err = errors.Join(err, lab.Close())
	}()
	registry, err := lab.StartRegistry(ctx, harness.RegistryOptions{})
	if err != nil {
		return t, err
	}
	digest, err := pushImages(ctx, registry)
	if err != nil {
		return t, err
	}
	daemon, err := startDaemon(ctx, lab, registry, o)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, keep(daemon.LogFile, filepath.Join(o.out, p.name+".daemon.log"))) }()
	suite, err := prepareSuite(lab, digest)
	if err != nil {
		return t, err
	}
	report, log := filepath.Join(o.out, p.name+".json"), filepath.Join(o.out, p.name+".log")
	if err := os.RemoveAll(report); err != nil { // the last run's would be read
		return t, err
	}
	fmt.Printf("critest: %s, %d at a time; its log is %s\n", p.name, p.nodes, log)
	ended := runSuite(ctx, suite, daemon, p, o, report, log)
	t, err = summarize(os.Stdout, report)
	if err != nil || t.failed == 0 { // else the failures say it
		err = errors.Join(err, ended)
	}
	return t, err
}

// startDaemon starts a daemon that finds the registries which critest names at
// the loopback registry.
func startDaemon(ctx context.Context, lab *harness.Lab, registry *harness.Registry, o options) (*harness.Daemon, error) {
	var mirrors strings.Builder
	for _, name := range []string{"registry.k8s.io", "k8s.gcr.io", "gcr.io"} {
		fmt.Fprintf(&mirrors, "[[registry]]\nprefix = %q\nlocation = %q\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n", name, name, registry.Host)
	}
	if _, err := lab.Write(mirrors.String(), "home", ".config", "containers", "registries.conf"); err != nil {
		return nil, err
	}
	network, err := lab.NewNetwork()
	if err != nil {
		return nil, err
	}
	if err := network.Configure(); err != nil {
		return nil, err
	}
	var extra []byte
	if o.config != "" {
		if extra, err = os.ReadFile(o.config); err != nil {
			return nil, err
		}
	}
	daemon, err := lab.NewDaemon(harness.DaemonOptions{Network: network, Insecure: []string{registry.Host}, NRI: nriPatience, Extra: string(extra)})
	if err != nil {
		return nil, err
	}
	return daemon, daemon.Start(ctx)
}

// prepareSuite copies critest and puts the digest of our image in the place of
// the one that only the real registry has.
func prepareSuite(lab *harness.Lab, digest string) (string, error) {
	path, err := harness.Tool("critest")
	if err != nil {
		return "", err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if !bytes.Contains(program, []byte(publicDigest)) || len(digest) != len(publicDigest) {
		return "", fmt.Errorf("%s does not name the image digest %s: is it a version whose images differ from those of e2e/critest/images.go?", path, publicDigest)
	}
	suite := lab.Path("critest")
	return suite, os.WriteFile(suite, bytes.ReplaceAll(program, []byte(publicDigest), []byte(digest)), 0o755)
}

// runSuite runs critest to its end; that tests fail is an error too.
func runSuite(ctx context.Context, suite string, daemon *harness.Daemon, p pass, o options, report, log string) error {
	ginkgo, err := harness.Tool("ginkgo") // critest starts it by name for parallel runs
	if err != nil {
		return err
	}
	out, err := os.Create(log)
	if err != nil {
		return err
	}
	defer out.Close()
	args := []string{
		"-runtime-endpoint", "unix://" + daemon.Socket, "-image-endpoint", "unix://" + daemon.Socket, // else it heeds /etc/crictl.yaml
		"-nri-socket", daemon.NRISocket, "-runtime-handler", o.handler,
		"-ginkgo.no-color", "-ginkgo.timeout", "45m", "-ginkgo.json-report", report,
	}
	if p.nodes > 1 { // ginkgo takes even -parallel 1 for a mistake
		args = append(args, "-parallel", strconv.Itoa(p.nodes))
	}
	if o.focus != "" {
		args = append(args, "-ginkgo.focus", o.focus)
	}
	cmd := exec.CommandContext(ctx, suite, args...)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(ginkgo)+":"+os.Getenv("PATH"))
	cmd.Dir = filepath.Dir(suite)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it tidies up and writes its report
	cmd.WaitDelay = time.Minute
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("critest: %w; see %s", err, log)
	}
	return nil
}

// keep copies a file of the lab, which goes away, to where it can be read.
func keep(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o644)
}

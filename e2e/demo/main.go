// Command demo shows Troupe at work on a node of its own: it starts a private
// daemon and a loopback registry, pulls an image, runs two pods, shows their
// logs, an exec and the actor tree, kills the daemon with SIGKILL, starts it
// again, shows the same pods with the same pids, removes everything, and checks
// that nothing is left. `make demo` builds and runs it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
)

func main() {
	harness.Enter() // mount, network and process namespaces of its own
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

// run gives everything back also when a step fails or is interrupted.
func run(ctx context.Context) error {
	before, err := harness.Surveyor{}.Take()
	if err != nil {
		return err
	}
	lab, err := harness.NewLab()
	if err != nil {
		return err
	}
	d := &demo{lab: lab, printer: newPrinter(os.Stdout)}
	failed := d.show(ctx)
	lab.Abandon = failed != nil
	if err := d.end(before); err != nil {
		if failed == nil {
			return err
		}
		d.bad("%v", err)
	}
	if failed != nil {
		return failed
	}
	d.goodbye()
	return nil
}

// show is the demo, top to bottom.
func (d *demo) show(ctx context.Context) error {
	steps := []struct {
		title string
		do    func(context.Context) error
	}{
		{"A node of its own: mount, network and process namespaces, and a directory on tmpfs", d.prepare},
		{"A registry on loopback, and an image made from Debian's static busybox", d.publish},
		{"The daemon starts", d.start},
		{"The image is pulled", d.pull},
		{"Two pods run", d.runPods},
		{"What they log, and an exec", d.logAndExec},
		{"Every actor there is", d.tree},
		{"The daemon is killed with SIGKILL, and starts again", d.killAndRestart},
		{"Everything is removed", d.remove},
	}
	for i, s := range steps {
		d.title(i+1, s.title)
		if err := s.do(ctx); err != nil {
			if d.daemon != nil {
				d.note("the last of the daemon's log:\n%s", d.daemon.Tail(15))
			}
			return fmt.Errorf("%s: %w", s.title, err)
		}
	}
	return nil
}

// end gives the lab back and looks whether the node is as it was before.
func (d *demo) end(before harness.Survey) error {
	if d.cri != nil {
		d.cri.Close()
	}
	if d.debug != nil {
		d.debug.Close()
	}
	if err := d.lab.Close(); err != nil {
		return fmt.Errorf("giving back the lab: %w", err)
	}
	look := harness.Surveyor{Cgroups: d.lab.Name, Files: []string{d.lab.Dir}}
	left, err := look.Left(before, 10*time.Second)
	if err != nil {
		return err
	}
	d.title(10, "What is left on the node")
	for _, kind := range harness.Kinds {
		d.leftOf(kind, left)
	}
	if len(left) > 0 {
		return fmt.Errorf("%d things were left behind", len(left))
	}
	return nil
}

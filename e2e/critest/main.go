// Command critest runs the CRI conformance suite of cri-tools against the
// built daemon, on a node of its own with a loopback registry: once one test
// after the other, once several at a time. It prints each failure and each
// skip with its reason; the last line is the total of both. It ends with 1 if
// a test failed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/troupe-run/troupe/e2e/harness"
)

func main() {
	var o options
	flag.StringVar(&o.focus, "focus", "", "regular expression: only tests with such a name")
	flag.StringVar(&o.handler, "handler", "", "runtime handler that the pods ask for")
	flag.StringVar(&o.config, "config", "", "file with further TOML for the daemon's configuration")
	flag.IntVar(&o.parallel, "parallel", 4, "tests at a time in the second run; 0 leaves it out")
	flag.StringVar(&o.out, "out", ".cache/critest", "directory for logs and reports; a relative one is below the repository's root")
	flag.Parse()
	harness.Enter()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	total, err := both(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "critest:", err)
	}
	fmt.Printf("critest: %s\n", total)
	if err != nil || total.failed > 0 {
		os.Exit(1)
	}
}

type options struct {
	focus, handler, config, out string
	parallel                    int
}

// both runs the suite serially and in parallel, each on a node of its own.
func both(ctx context.Context, o options) (total tally, err error) {
	root, err := harness.ProjectRoot()
	if err != nil {
		return total, err
	}
	if !filepath.IsAbs(o.out) { // the guest's tree is read-only
		o.out = filepath.Join(root, o.out)
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return total, err
	}
	var errs []error
	for _, pass := range []pass{{"serial", 1}, {"parallel", o.parallel}} {
		if pass.nodes == 0 || ctx.Err() != nil {
			continue
		}
		t, err := run(ctx, pass, o)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", pass.name, err))
		}
		fmt.Printf("%s: %s\n", pass.name, t)
		total.add(t)
	}
	return total, errors.Join(append(errs, ctx.Err())...)
}

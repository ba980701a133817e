package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// A worker is this program run again to pull in the place of a runtime, so
// that it is measured as one: references come in by lines, answers go out.
func work(ctx context.Context, kind, dir string) error {
	p, err := newWorker(kind, dir)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := p.pull(ctx, lines.Text()); err != nil {
			return err
		}
		fmt.Println("done")
	}
	return nil
}

type puller interface {
	pull(ctx context.Context, ref string) error
}

func newWorker(kind, dir string) (puller, error) {
	switch kind {
	case floorIgzip:
		igzip, err := exec.LookPath("igzip")
		return &floor{dir: dir, igzip: igzip}, err
	case floorKlauspost:
		return &floor{dir: dir}, nil
	case viaSkopeo:
		return skopeo{dir}, nil
	}
	return nil, fmt.Errorf("no worker %q", kind)
}

func startWorker(kind string) func(context.Context, *place) (*running, error) {
	return func(ctx context.Context, p *place) (*running, error) {
		cmd := exec.CommandContext(ctx, "/proc/self/exe", "-worker", kind, "-dir", p.dir)
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		p.lab.OnClose(func() error { return errors.Join(in.Close(), cmd.Wait()) })
		w := &worker{kind: kind, in: in, out: bufio.NewReader(out)}
		return &running{pid: cmd.Process.Pid, pull: w.pull}, w.expect("ready")
	}
}

type worker struct {
	kind string
	in   io.Writer
	out  *bufio.Reader
}

func (w *worker) pull(_ context.Context, ref string) error {
	if _, err := fmt.Fprintln(w.in, ref); err != nil {
		return err
	}
	return w.expect("done")
}

func (w *worker) expect(word string) error {
	line, err := w.out.ReadString('\n')
	if err != nil || strings.TrimSpace(line) != word {
		return fmt.Errorf("the worker %s ended or answered %q: %w", w.kind, line, errors.Join(err))
	}
	return nil
}

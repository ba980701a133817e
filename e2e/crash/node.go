package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// node is a worker's node.
type node struct {
	lab      *harness.Lab
	daemon   *harness.Daemon
	cri      *harness.CRI
	crictl   *harness.Crictl
	image    string // of the containers
	fetched  string // an image that is pulled and removed again
	arm      string // the file by which a point is armed
	trace    string
	before   harness.Survey
	monitors int
	other    *bystander
	serial   int
	bin      string // the folder of the programs
}

// errStalled is the kernel's fault.
var errStalled = errors.New("the kernel had stood still")

// work does the tasks that come on stdin.
func work(o *options) error {
	in, out := decoder(os.Stdin), encoder(os.Stdout)
	var n *node
	for {
		var t task
		if err := in.Decode(&t); err != nil {
			if n != nil {
				return n.close()
			}
			return nil
		}
		if n == nil {
			var err error
			n, err = newNode(o)
			for try := 1; errors.Is(err, errStalled) && try < patience; try++ {
				fmt.Fprintln(os.Stderr, "worker: once more:", err)
				n, err = newNode(o)
			}
			if err != nil {
				return err
			}
		}
		r := n.tell(o, t)
		if r.Err != "" || !r.Reached { // who knows what is left: begin anew
			n.lab.Abandon = true
			if err := n.close(); err != nil && o.verbose {
				fmt.Fprintln(os.Stderr, "closing a node:", err)
			}
			n = nil
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

func newNode(o *options) (*node, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	lab, err := harness.NewLab()
	if err != nil {
		return nil, err
	}
	n := &node{lab: lab, arm: lab.Path("arm"), trace: lab.Path("trace"), bin: o.bin}
	if err := n.setUp(ctx, o); err != nil {
		lab.Abandon = true
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *node) setUp(ctx context.Context, o *options) error {
	network, err := n.lab.NewNetwork()
	if err != nil {
		return err
	}
	registry, err := n.lab.StartRegistry(ctx, harness.RegistryOptions{})
	if err != nil {
		return err
	}
	bin, err := filepath.Abs(filepath.Join(o.bin, "troupe"))
	if err != nil {
		return err
	}
	n.daemon, err = n.lab.NewDaemon(harness.DaemonOptions{
		Network: network, Insecure: []string{registry.Host}, Binary: bin,
		Env: []string{"TROUPE_FAILPOINT_FILE=" + n.arm, "TROUPE_FAILPOINT_TRACE=" + n.trace},
	})
	if err != nil {
		return err
	}
	if err := errors.Join(network.Configure(), n.daemon.Start(ctx)); err != nil {
		return err
	}
	if n.cri, err = harness.Dial(n.daemon.Socket); err != nil {
		return err
	}
	if n.crictl, err = n.lab.NewCrictl(n.daemon.Socket); err != nil {
		return err
	}
	if err := n.push(ctx, registry); err != nil {
		return err
	}
	for _, ref := range []string{n.image, n.fetched} {
		if _, err := n.cri.Image.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}}); err != nil {
			return err
		}
	}
	if err := n.standBy(ctx); err != nil {
		return err
	}
	// What is made once and stays (the network's lock files, say) is made by a
	// first story.
	if r := n.tell(o, task{Mode: traced}); r.Err != "" {
		err := errors.New("the first story: " + r.Err)
		if r.Stalled {
			err = fmt.Errorf("%w; %w", err, errStalled)
		}
		return err
	}
	n.monitors = len(n.daemon.Monitors())
	n.before, err = n.survey()
	return err
}

func (n *node) push(ctx context.Context, registry *harness.Registry) error {
	img, err := harness.BuildImage(harness.ImageSpec{})
	if err != nil {
		return err
	}
	if n.image, err = registry.Push(ctx, "crash", "1", img); err != nil {
		return err
	}
	if img, err = harness.BuildImage(harness.ImageSpec{Files: map[string]string{"data": "data"}, Ballast: []int{100_000}}); err != nil {
		return err
	}
	n.fetched, err = registry.Push(ctx, "fetched", "1", img)
	return err
}

func (n *node) close() error {
	var err error
	if n.other != nil && !n.lab.Abandon {
		// The second of two points need not have been reached.
		if err = errors.Join(n.disarm(), n.other.end(n.cri)); err != nil {
			err = fmt.Errorf("the other pod cannot be ended: %w\n%s\n--- the daemon's log\n%s\n--- the monitor's\n%s", err, harness.Waits(), n.daemon.Tail(20), n.monitorTail(20))
			n.lab.Abandon = true
		}
	}
	if n.cri != nil {
		n.cri.Close()
	}
	return errors.Join(err, n.lab.Close())
}

// revive starts a daemon that has ended, as systemd does.
func (n *node) revive() error {
	if !n.daemon.Died() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := n.daemon.Start(ctx)
	if err != nil && n.daemon.Died() { // once more: the point may be in what a start does
		err = n.daemon.Start(ctx)
	}
	return err
}

// monitor is the pid of the monitor proper. Where there are two processes it is
// the child of the other, which keeps what it must not lose.
func (n *node) monitor() int {
	all := n.daemon.Monitors()
	for _, pid := range all {
		if slices.Contains(all, parentOf(pid)) {
			return pid
		}
	}
	if len(all) == 0 {
		return 0
	}
	return all[0]
}

func parentOf(pid int) int {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	if fields := strings.Fields(rest); len(fields) > 1 {
		ppid, _ := strconv.Atoi(fields[1])
		return ppid
	}
	return 0
}

func (n *node) killMonitor() error {
	pid := n.monitor()
	if pid == 0 {
		return errors.New("there is no monitor to kill")
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

// arms arms a point; fired says whether it was reached.
func (n *node) arms(point, what string, nth int) error {
	next := n.arm + ".next"
	if err := os.WriteFile(next, fmt.Appendf(nil, "%s=%s,%d\n", point, what, nth), 0o600); err != nil {
		return err
	}
	return os.Rename(next, n.arm) // all at once
}

func (n *node) fired() bool {
	_, err := os.Stat(n.arm + ".fired")
	return err == nil
}

func (n *node) disarm() error {
	var errs []error
	for _, name := range []string{n.arm, n.arm + ".fired"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// survey is what the node holds: all the harness looks for, and each file of
// Troupe's outside the image store.
func (n *node) survey() (harness.Survey, error) {
	s := n.surveyor()
	taken, err := s.Take()
	return n.known(taken), err
}

func (n *node) surveyor() harness.Surveyor {
	s := n.daemon.Surveyor()
	s.Files = []string{n.daemon.Root, n.daemon.Run}
	return s
}

// known leaves out what is Troupe's own and changes: a monitor's pid, the
// store's files, what the other pod's shell starts, and torn records that were
// put aside for people.
func (n *node) known(s harness.Survey) harness.Survey {
	s["process"] = slices.DeleteFunc(s["process"], func(p string) bool {
		return strings.Contains(p, "troupe-monitor --dir") || strings.Contains(p, otherSleeps) || strings.HasSuffix(p, ": sleep") || strings.HasSuffix(p, ": sleep (zombie)") // as it begins and ends
	})
	s["file"] = slices.DeleteFunc(s["file"], func(p string) bool {
		return strings.HasPrefix(p, filepath.Join(n.daemon.Run, "images")) || strings.HasPrefix(p, filepath.Join(n.daemon.Root, "quarantine"))
	})
	return s
}

// left is what the node holds and did not before.
func (n *node) left(patience time.Duration) ([]string, error) {
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		now, err := n.survey()
		if err != nil {
			return nil, err
		}
		left := n.before.News(now)
		if m := len(n.daemon.Monitors()); m != n.monitors {
			left = append(left, fmt.Sprintf("process: %d of troupe-monitor where %d should be", m, n.monitors))
		}
		if len(left) == 0 || time.Now().After(end) {
			n.before = now
			return left, nil
		}
	}
}

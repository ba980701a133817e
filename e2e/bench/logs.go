package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/troupe-run/troupe/cmd/troupe-sim/load"
	"github.com/troupe-run/troupe/e2e/harness"
	"github.com/troupe-run/troupe/e2e/plot"
	"github.com/troupe-run/troupe/e2e/verdict"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// linesFile of the image has linesMB million bytes of lines of 100 bytes, its
// line break counted.
const (
	linesFile = "lines"
	linesMB   = 10
	ending    = "THE END"
)

func manyLines() string {
	var b strings.Builder
	for i := range linesMB * 10_000 {
		fmt.Fprintf(&b, "%08d %090d\n", i, i*i)
	}
	return b.String()
}

// script writes so many megabytes and stays, so that what its log cost can
// still be read.
func script(megabytes int) string {
	return "cat" + strings.Repeat(" /"+linesFile, megabytes/linesMB) + "; echo " + ending + "; exec sleep 100000"
}

// written is what a container's output took until the last line was in its log.
type written struct {
	Megabytes  int     `json:"megabytes"`
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpuSeconds"` // of the runtime's processes
}

func (w written) rate() float64 { return float64(w.Megabytes) / w.Seconds }
func (w written) cost() float64 { return w.CPUSeconds / (float64(w.Megabytes) / 1000) }

const conmon = "conmon"

// logs is `make bench-logs`.
func logs(ctx context.Context, o options) error {
	const times = 3
	all := map[string][]written{}
	busy := 0.0
	again := func(name string, one func() (written, error)) error {
		cores, err := load.BusyCores(ctx, time.Second)
		if err != nil {
			return err
		}
		busy = max(busy, cores)
		for range times {
			w, err := one()
			if err != nil {
				return err
			}
			fmt.Printf("%-10s %d MB in lines of 100 bytes: %6.0f MB/s, %5.2f CPU s/GB\n", name, w.Megabytes, w.rate(), w.cost())
			all[name] = append(all[name], w)
		}
		return nil
	}
	err := o.each(ctx, func(ctx context.Context, s *stage, c contender) error {
		l, err := o.begin(ctx, s, c)
		if err != nil {
			return err
		}
		return again(c.name, func() (written, error) { return s.writeByCRI(ctx, l, o.megabyte) })
	})
	if err != nil {
		return err
	}
	if o.only == "" || o.only == conmon {
		if err := withStage(ctx, o, func(s *stage) error {
			return again(conmon, func() (written, error) { return s.writeByConmon(ctx, o.megabyte) })
		}); err != nil {
			return fmt.Errorf("conmon: %w", err)
		}
	}
	if o.only != "" {
		return nil
	}
	of := func(name string, figure func(written) float64) float64 { return medianOf(all[name], figure) }
	targets := []verdict.Target{
		verdict.AtLeast("MB/s, to containerd's", 4, of(troupe, written.rate), of(containerd, written.rate)),
		verdict.AtMost("CPU s/GB, to containerd's", 0.3, of(troupe, written.cost), of(containerd, written.cost)),
		verdict.AtLeast("MB/s, to conmon's", 1, of(troupe, written.rate), of(conmon, written.rate)),
		verdict.AtMost("CPU s/GB, to conmon's", 1, of(troupe, written.cost), of(conmon, written.cost)),
	}
	p := &page{
		options: o, name: "LOGS", kind: "bench-logs", title: "A container writes as fast as it can", raw: all, busy: busy,
		pictures: map[string]string{"logs.svg": plot.Ratios("Troupe's log path as a part of the others': less is better", ratios(targets))},
		about: fmt.Sprintf("`cat` of %d MB in lines of 100 bytes, %d times; medians. The log is a file on tmpfs. Seconds from StartContainer (conmon: `runc\n"+
			"start`) until the last line stands in the log; CPU of the runtime's own processes, the container's not counted.\n"+
			"containerd is what `tools/peers/go.mod` pins, conmon Debian's with the runc of there and its k8s-file log.\n", o.megabyte, times),
	}
	return p.publish(verdict.Table("other", targets))
}

func (s *stage) writeByCRI(ctx context.Context, l load.Options, megabytes int) (w written, err error) {
	cri, err := harness.Dial(l.Socket)
	if err != nil {
		return w, err
	}
	defer cri.Close()
	dir := l.LogDir
	if _, err := cri.Image.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: s.image}}); err != nil {
		return w, err
	}
	pod := &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: "logs", Uid: "logs", Namespace: "bench"}, LogDirectory: dir,
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent:    l.CgroupParent,
			SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}},
		},
	}
	p, err := cri.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: pod})
	if err != nil {
		return w, err
	}
	defer func() {
		_, stopped := cri.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.PodSandboxId})
		_, removed := cri.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.PodSandboxId})
		err = errors.Join(err, stopped, removed, ignoreMissing(os.Remove(filepath.Join(dir, "log"))))
	}()
	created, err := cri.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: p.PodSandboxId, SandboxConfig: pod, Config: &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: "logs"}, Image: &runtime.ImageSpec{Image: s.image},
		Command: []string{"sh", "-c", script(megabytes)}, LogPath: "log",
		Linux: &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}}},
	}})
	if err != nil {
		return w, err
	}
	return watched(ctx, l.Processes, filepath.Join(dir, "log"), megabytes, func() error {
		_, err := cri.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: created.ContainerId})
		return err
	})
}

// watched starts a container and waits for its last line.
func watched(ctx context.Context, processes []string, log string, megabytes int, start func() error) (w written, err error) {
	before, err := load.CPUOf(processes)
	if err != nil {
		return w, err
	}
	began := time.Now()
	if err := start(); err != nil {
		return w, err
	}
	for !ends(log) {
		if time.Since(began) > 5*time.Minute {
			return w, fmt.Errorf("after %v the log does not have its last line", time.Since(began))
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return w, ctx.Err()
		}
	}
	w = written{Megabytes: megabytes, Seconds: time.Since(began).Seconds()}
	after, err := load.CPUOf(processes)
	w.CPUSeconds = (after - before).Seconds()
	return w, err
}

// ends says whether the last line of a log is the script's.
func ends(log string) bool {
	f, err := os.Open(log)
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false
	}
	tail := make([]byte, 64)
	n, _ := f.ReadAt(tail, max(0, info.Size()-int64(len(tail)))) // short at the file's end
	return bytes.HasSuffix(tail[:n], []byte(" "+ending+"\n"))
}

// writeByConmon runs the same under conmon and runc alone, as CRI-O has them.
func (s *stage) writeByConmon(ctx context.Context, megabytes int) (w written, err error) {
	runc, err := harness.Tool("runc")
	if err != nil {
		return w, err
	}
	bundle, err := s.lab.Mkdir("bundle")
	if err != nil {
		return w, err
	}
	root, log := filepath.Join(s.lab.Dir, "runc"), filepath.Join(bundle, "log")
	run := func(name string, args ...string) error {
		if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
		}
		return nil
	}
	if err := bundleOf(bundle, "/"+s.lab.Name+"/conmon", script(megabytes)); err != nil {
		return w, err
	}
	const id = "bench-logs"
	if err := run(conmon, "--api-version", "1", "-c", id, "-u", id, "-r", runc, "-b", bundle, "-l", "k8s-file:"+log,
		"-p", filepath.Join(bundle, "pid"), "--exit-dir", bundle, "--socket-dir-path", bundle, "--runtime-arg", "--root="+root); err != nil {
		return w, err
	}
	defer func() {
		err = errors.Join(err, run(runc, "--root", root, "delete", "--force", id), os.RemoveAll(bundle))
	}()
	// It goes into the background and has runc create the container there.
	for began := time.Now(); run(runc, "--root", root, "state", id) != nil; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			return w, errors.New("conmon has not made a container after 10 s")
		}
	}
	return watched(ctx, []string{conmon}, log, megabytes, func() error { return run(runc, "--root", root, "start", id) })
}

// bundleOf makes an OCI bundle of Debian's static busybox.
func bundleOf(dir, cgroup, script string) error {
	rootfs := filepath.Join(dir, "rootfs")
	for _, d := range []string{"bin", "proc"} {
		if err := os.MkdirAll(filepath.Join(rootfs, d), 0o755); err != nil {
			return err
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(rootfs, "bin", "busybox"), busybox, 0o755); err != nil {
		return err
	}
	for _, applet := range []string{"sh", "cat", "sleep"} {
		if err := os.Symlink("busybox", filepath.Join(rootfs, "bin", applet)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(rootfs, linesFile), []byte(manyLines()), 0o644); err != nil {
		return err
	}
	spec := map[string]any{
		"ociVersion": "1.0.2", "root": map[string]any{"path": "rootfs"},
		"process": map[string]any{"cwd": "/", "args": []string{"/bin/sh", "-c", script}, "env": []string{"PATH=/bin"}, "user": map[string]any{"uid": 0, "gid": 0}},
		"mounts":  []any{map[string]any{"destination": "/proc", "type": "proc", "source": "proc"}},
		"linux":   map[string]any{"cgroupsPath": cgroup, "namespaces": []any{map[string]any{"type": "pid"}, map[string]any{"type": "mount"}}},
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

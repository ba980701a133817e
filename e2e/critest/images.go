package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/troupe-run/troupe/e2e/harness"
)

// publicDigest is the digest by which critest pulls one image
// (pkg/validate/consts.go of cri-tools): only the real registry has it.
const publicDigest = "9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n"
	group  = "root:x:0:\nwww-data:x:33:\nnobody:x:65534:\n"
)

// parts are what the images are made of.
type parts struct {
	busybox *harness.Layer
	standin []byte
}

// pushImages puts a stand-in for every image that critest names into the
// registry, and gives the digest (hexadecimal) of the one it pulls by digest.
func pushImages(ctx context.Context, registry *harness.Registry) (digest string, err error) {
	p, err := gather()
	if err != nil {
		return "", err
	}
	for _, w := range p.wanted() {
		img, err := harness.BuildImage(w.spec)
		if err != nil {
			return "", fmt.Errorf("making %s: %w", w.names[0], err)
		}
		for _, name := range w.names {
			repository, tag, _ := strings.Cut(name, ":")
			if _, err := registry.Push(ctx, repository, tag, img); err != nil {
				return "", err
			}
			if repository == staging+"test-image-digest" {
				digest = strings.TrimPrefix(img.Digest(), "sha256:")
			}
		}
	}
	return digest, nil
}

func gather() (*parts, error) {
	standin, err := harness.Tool("critest-standin")
	if err != nil {
		return nil, err
	}
	p := &parts{}
	if p.standin, err = os.ReadFile(standin); err != nil {
		return nil, err
	}
	p.busybox, err = busybox()
	return p, err
}

type wanted struct {
	spec  harness.ImageSpec
	names []string // repository:tag, the same in all registries
}

const (
	staging = "k8s-staging-cri-tools/"
	public  = "e2e-test-images/"
)

func (p *parts) wanted() []wanted {
	shell := func(user string, files map[string]string) harness.ImageSpec {
		return harness.ImageSpec{Cmd: []string{"sh"}, User: user, Files: files, Layers: []*harness.Layer{p.busybox}}
	}
	named := func(name string) harness.ImageSpec { return shell("", map[string]string{name: name}) }
	return []wanted{
		{shell("", nil), []string{public + "busybox:1.29-2"}},
		{p.program("pause", "pause", 0o755, harness.ImageSpec{Entrypoint: []string{"/pause"}, User: "65535:65535"}), []string{"pause:3.9"}},
		{p.program("nnp", "nnp", 0o4755, harness.ImageSpec{Entrypoint: []string{"/nnp"}}), []string{public + "nonewprivs:1.3"}},
		{p.web("usr/sbin/nginx", "nginx", "-g", "daemon off;"), []string{public + "nginx:1.14-2"}},
		{p.web("usr/sbin/nginx", "nginx", "-p", "12003"), []string{staging + "hostnet-nginx-" + runtime.GOARCH + ":latest"}},
		{p.web("usr/bin/httpd-foreground", "httpd-foreground"), []string{public + "httpd:2.4.39-4"}},
		{named("latest"), []string{staging + "test-image-latest:latest"}},
		{named("tag"), []string{staging + "test-image-tag:test", staging + "test-image-tag:all"}},
		{named("digest"), []string{staging + "test-image-digest:test"}},
		{named("1"), []string{staging + "test-image-1:latest"}},
		{named("2"), []string{staging + "test-image-2:latest"}},
		{named("3"), []string{staging + "test-image-3:latest"}},
		{named("tags"), []string{staging + "test-image-tags:1", staging + "test-image-tags:2", staging + "test-image-tags:3"}},
		{shell("1002", nil), []string{staging + "test-image-user-uid:latest"}},
		{shell("www-data", nil), []string{staging + "test-image-user-username:latest"}},
		{shell("1003:1003", nil), []string{staging + "test-image-user-uid-group:latest"}},
		{shell("www-data:www-data", nil), []string{staging + "test-image-user-username-group:latest"}},
		{shell("1000", map[string]string{
			"etc/passwd": passwd + "default-user:x:1000:1000::/home:/bin/sh\n",
			"etc/group":  group + "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n",
		}), []string{staging + "test-image-predefined-group:latest"}},
	}
}

// program is an image with the stand-in under a name and busybox beside it.
func (p *parts) program(name, path string, mode int64, spec harness.ImageSpec) harness.ImageSpec {
	l := &harness.Layer{}
	l.File(path, p.standin, mode)
	spec.Layers = []*harness.Layer{p.busybox, l}
	spec.Labels = map[string]string{"stands-in-for": name}
	return spec
}

func (p *parts) web(path string, cmd ...string) harness.ImageSpec {
	return p.program(cmd[0], path, 0o755, harness.ImageSpec{Cmd: cmd})
}

// busybox is the root filesystem that stands in for the busybox image. Debian's
// static busybox would not do: its shell runs `ls` itself without looking at
// /bin/ls, and critest masks that file to see the shell fail. The one that is
// linked dynamically asks the file system, as the original does; its libraries
// are those of this machine. Every command is a hard link, as in the original:
// masking one must not mask all.
func busybox() (*harness.Layer, error) {
	program, err := harness.Tool("busybox-dynamic")
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	commands, err := exec.Command(program, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", program, err)
	}
	l := &harness.Layer{}
	for _, dir := range []string{"bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr", "usr/bin", "usr/sbin", "var", "var/run", "var/www"} {
		l.Dir(dir)
	}
	l.File("bin/busybox", content, 0o755)
	for _, name := range strings.Fields(string(commands)) {
		if name != "busybox" {
			l.HardLink("bin/"+name, "bin/busybox")
		}
	}
	// Two commands of the original that Debian leaves out.
	l.File("bin/ipcs", []byte("#!/bin/sh\ncat /proc/sysvipc/shm\n"), 0o755)
	l.File("bin/pgrep", []byte("#!/bin/sh\nexec pidof \"$1\"\n"), 0o755)
	l.File("etc/passwd", []byte(passwd), 0o644)
	l.File("etc/group", []byte(group), 0o644)
	return l, libraries(l, program)
}

// libraries adds what ldd says a program needs, at the paths it says.
func libraries(l *harness.Layer, program string) error {
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", program, err)
	}
	made := map[string]bool{}
	for _, line := range strings.Split(string(out), "\n") {
		fields := strings.Fields(line) // name => path (address), or path (address)
		if len(fields) < 2 {
			continue
		}
		path := fields[len(fields)-2]
		if !strings.HasPrefix(path, "/") {
			continue // the kernel's own
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		dirs := strings.Split(strings.Trim(path, "/"), "/")
		for i := 1; i < len(dirs); i++ {
			if dir := strings.Join(dirs[:i], "/"); !made[dir] {
				made[dir] = true
				l.Dir(dir)
			}
		}
		l.File(strings.TrimPrefix(path, "/"), content, 0o755)
	}
	return nil
}

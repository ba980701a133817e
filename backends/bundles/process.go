package bundles

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// arguments joins what the container asks for with what the image says, by
// Docker's rules: a command replaces the image's entrypoint and cmd, arguments
// alone replace its cmd.
func (b *bundle) arguments() error {
	c, image := b.r.Config, b.r.Image
	command, args := c.GetCommand(), c.GetArgs()
	if len(command) == 0 {
		command = image.Entrypoint
		if len(args) == 0 {
			args = image.Cmd
		}
	}
	argv := slices.Concat(command, args)
	if len(argv) == 0 || argv[0] == "" {
		return messages.Errorf(messages.Invalid, "neither the container nor its image says what to run: set command or args")
	}
	for _, arg := range argv {
		if strings.ContainsRune(arg, 0) {
			return messages.Errorf(messages.Invalid, "argument %q contains a NUL character", arg)
		}
	}
	b.spec.Process.Args = argv
	b.spec.Process.Terminal = c.GetTty()
	b.spec.Process.Cwd = workingDir(c.GetWorkingDir(), image.WorkingDir)
	return nil
}

// workingDir is absolute and clean, as the runtime spec demands.
func workingDir(asked, image string) string {
	if asked == "" {
		asked = image
	}
	return path.Join("/", asked)
}

// environment: built-in defaults, then default_env, then the image's, then the
// container's. A variable keeps the place where it first stood.
func (b *bundle) environment() error {
	image, err := parseEnv("image environment", b.r.Image.Env)
	if err != nil {
		return err
	}
	var own []string
	for _, e := range b.r.Config.GetEnvs() {
		own = append(own, e.GetKey()+"="+string(e.GetValue()))
	}
	if own, err = parseEnv("envs", own); err != nil {
		return err
	}
	builtin := []string{defaultPath, "HOSTNAME=" + b.hostname()}
	if b.r.Config.GetTty() {
		builtin = append(builtin, "TERM=xterm")
	}
	b.spec.Process.Env = mergeEnv(builtin, b.defaults.env, image, own)
	return nil
}

// hostname is what a process in the container reads from the kernel: a UTS
// namespace that nobody set a name in starts with the node's.
func (b *bundle) hostname() string {
	if name := b.r.PodConfig.GetHostname(); name != "" && b.r.Namespaces.UTS != "" {
		return name
	}
	return b.node.hostname
}

func mergeEnv(lists ...[]string) []string {
	var merged []string
	at := map[string]int{}
	for _, v := range slices.Concat(lists...) {
		name, _, _ := strings.Cut(v, "=")
		if i, ok := at[name]; ok {
			merged[i] = v
			continue
		}
		at[name] = len(merged)
		merged = append(merged, v)
	}
	return merged
}

// parseEnv refuses what execve(2) cannot carry. A variable without "=" is an
// empty one, as in Docker.
func parseEnv(field string, vars []string) ([]string, error) {
	var parsed []string
	for _, v := range vars {
		name, _, ok := strings.Cut(v, "=")
		if name == "" || strings.ContainsRune(v, 0) {
			return nil, messages.Errorf(messages.Invalid, "%s: variable %q: must be NAME=value without NUL characters", field, v)
		}
		if !ok {
			v += "="
		}
		parsed = append(parsed, v)
	}
	return parsed, nil
}

// limits sets the kernel's limits of the process: its rlimits and its place in
// the order in which processes are killed when memory runs out.
func (b *bundle) limits() error {
	b.spec.Process.Rlimits = b.defaults.rlimits
	// Always set, or the monitor's own (-999) would be inherited.
	score := b.oomScore(int(b.r.Config.GetLinux().GetResources().GetOomScoreAdj()))
	b.spec.Process.OOMScoreAdj = &score
	return nil
}

// oomScore is what can be given: without CAP_SYS_RESOURCE a process cannot go
// below its own (proc(5)), and a container that is easier to kill than asked
// is better than none.
func (b *bundle) oomScore(asked int) int {
	if asked < b.node.oomFloor {
		b.log.Info("oom_score_adj cannot be lowered without CAP_SYS_RESOURCE", "asked", asked, "given", b.node.oomFloor)
		return b.node.oomFloor
	}
	return min(asked, 1000)
}

func (b *Backend) parseUlimits(asked []string) ([]specs.POSIXRlimit, error) {
	var limits []specs.POSIXRlimit
	for _, text := range asked {
		u, err := units.ParseUlimit(text)
		if err != nil {
			return nil, messages.Errorf(messages.Invalid, "default_ulimits: %q: must be name=soft:hard: %w", text, err)
		}
		r, err := u.GetRlimit()
		if err != nil {
			return nil, messages.Errorf(messages.Invalid, "default_ulimits: %q: %w", text, err)
		}
		limit := specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: r.Soft, Hard: r.Hard}
		if err := b.clamp(&limit, r.Type); err != nil {
			return nil, fmt.Errorf("default_ulimits: %q: %w", text, err)
		}
		limits = append(limits, limit)
	}
	return limits, nil
}

// clamp keeps a limit below our own hard one when that cannot be raised.
func (b *Backend) clamp(limit *specs.POSIXRlimit, resource int) error {
	if b.node.rlimits {
		return nil
	}
	var own unix.Rlimit
	if err := unix.Getrlimit(resource, &own); err != nil {
		return err
	}
	if limit.Hard > own.Max {
		b.log.Warn("a hard limit cannot be raised without CAP_SYS_RESOURCE", "limit", limit.Type, "asked", limit.Hard, "given", own.Max)
		limit.Hard = own.Max
		limit.Soft = min(limit.Soft, own.Max)
	}
	return nil
}

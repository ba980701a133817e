package bundles

import (
	"fmt"
	"maps"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// Handler is how the containers of one runtime handler differ from others'. The
// names are those of crio.conf(5), table crio.runtime.runtimes.X.
type Handler struct {
	PrivilegedWithoutHostDevices bool
	NoRecursiveReadOnly          bool              // it cannot make a mount read-only with all below it
	AllowedAnnotations           []string          // names or beginnings of names
	DefaultAnnotations           map[string]string // always passed on
	SeccompProfile               string            // of RuntimeDefault; "": the node's
	ExecCPUAffinity              string            // "first" or ""
}

// handler is one, parsed. That of a name that is not configured (any more) has
// nothing of its own.
type handler struct {
	Handler
	seccomp *profile // nil: the node's
}

func (b *Backend) parseHandlers() error {
	b.defaults.handlers = map[string]handler{}
	for name, config := range b.config.Handlers {
		h := handler{Handler: config}
		if config.SeccompProfile != "" {
			p, err := loadProfile("seccomp_profile of the runtime handler "+name, config.SeccompProfile, builtinProfile)
			if err != nil {
				return err
			}
			h.seccomp = &p
		}
		if config.ExecCPUAffinity != "" && config.ExecCPUAffinity != "first" {
			return messages.Errorf(messages.Invalid, "exec_cpu_affinity %q of the runtime handler %s: must be first or empty", config.ExecCPUAffinity, name)
		}
		b.defaults.handlers[name] = h
	}
	return nil
}

func (b *bundle) handler() handler { return b.defaults.handlers[b.r.Handler] }

// runtimeDefault is the profile behind RuntimeDefault.
func (b *bundle) runtimeDefault() profile {
	if own := b.handler().seccomp; own != nil {
		return *own
	}
	return b.defaults.seccomp
}

// passedAnnotations are those that reach the runtime: the operator's, and of the
// pod's and the container's those whose names the operator allowed. Others never
// do: runtimes obey some of them (crun's run.oci.* open files of the node and
// replace the seccomp profile, runc's org.systemd.property.* set properties of
// units), and annotations "SHOULD NOT influence runtime behaviour" (cri-api,
// ContainerConfig). A container's win over its pod's.
func (h handler) passedAnnotations(r backends.BundleRequest) map[string]string {
	passed := maps.Clone(h.DefaultAnnotations)
	if passed == nil {
		passed = map[string]string{}
	}
	for _, from := range []map[string]string{r.PodConfig.GetAnnotations(), r.Config.GetAnnotations()} {
		for name, value := range from {
			if h.allows(name) {
				passed[name] = value
			}
		}
	}
	return passed
}

func (h handler) allows(name string) bool {
	return messages.AnnotationAllowed(h.AllowedAnnotations, name)
}

// execAffinity has execs begin on the first CPU of a container that has CPUs
// of its own, so that they do not disturb what runs on the others.
func (b *bundle) execAffinity() error {
	cpu := b.spec.Linux.Resources.CPU
	if b.handler().ExecCPUAffinity != "first" || cpu == nil || cpu.Cpus == "" {
		return nil
	}
	first := strings.TrimSpace(cpu.Cpus[:len(cpu.Cpus)-len(strings.TrimLeft(cpu.Cpus, " 0123456789"))])
	if first == "" {
		return messages.Errorf(messages.Invalid, "linux.resources.cpuset_cpus %q: must begin with the number of a CPU", cpu.Cpus)
	}
	b.spec.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: fmt.Sprint(first)}
	return nil
}

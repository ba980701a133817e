package bundles

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const defaultStopSignal = "SIGTERM"

// The real-time signals as libc counts them: the kernel's first two are its own.
const (
	sigrtmin = 34
	sigrtmax = 64
)

// stopSignal is what asks the container to end: the container's own, else the
// image's, else SIGTERM. An image with a signal that does not exist still runs.
func (b *bundle) stopSignal() error {
	b.StopSignal = defaultStopSignal
	if own := b.r.Config.GetStopSignal(); own != runtime.Signal_SIGNAL_RUNTIME_DEFAULT {
		// "SIGNAL_SIGRTMINPLUS1" says SIGRTMIN+1.
		name := strings.TrimPrefix(own.String(), "SIGNAL_")
		name = strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(name)
		normal, err := normalSignal(name)
		if err != nil {
			return fmt.Errorf("stop_signal %s: %w", own, err)
		}
		b.StopSignal = normal
		return nil
	}
	if image := b.r.Image.StopSignal; image != "" {
		normal, err := normalSignal(image)
		if err != nil {
			b.log.Warn("the image's stop signal is not a signal: SIGTERM is used", "signal", image)
			return nil
		}
		b.StopSignal = normal
	}
	return nil
}

// normalSignal writes "term", "SIGTERM", "15" as SIGTERM.
func normalSignal(text string) (string, error) {
	number, err := strconv.Atoi(text)
	if err != nil {
		number = signalNumber("SIG" + strings.TrimPrefix(strings.ToUpper(text), "SIG"))
	}
	if number >= sigrtmin && number <= sigrtmax {
		return realTimeSignal(number), nil
	}
	if name := unix.SignalName(unix.Signal(number)); name != "" {
		return name, nil
	}
	return "", fmt.Errorf("%q is not a signal (see signal(7))", text)
}

// realTimeSignal counts from the nearer end, as the CRI's names do.
func realTimeSignal(number int) string {
	const lastFromBelow = 15
	switch above := number - sigrtmin; {
	case above == 0:
		return "SIGRTMIN"
	case above <= lastFromBelow:
		return fmt.Sprintf("SIGRTMIN+%d", above)
	case number == sigrtmax:
		return "SIGRTMAX"
	}
	return fmt.Sprintf("SIGRTMAX-%d", sigrtmax-number)
}

// twins are second names of signals (signal(7)).
var twins = map[string]string{"SIGCLD": "SIGCHLD", "SIGIOT": "SIGABRT", "SIGPOLL": "SIGIO"}

func signalNumber(name string) int {
	if twin, ok := twins[name]; ok {
		name = twin
	}
	for _, rt := range []struct {
		name string
		base int
	}{{"SIGRTMIN", sigrtmin}, {"SIGRTMAX", sigrtmax}} {
		offset, ok := strings.CutPrefix(name, rt.name)
		if !ok {
			continue
		}
		n := 0
		if offset != "" {
			var err error
			if n, err = strconv.Atoi(offset); err != nil {
				return 0
			}
		}
		if rt.base+n < sigrtmin || rt.base+n > sigrtmax {
			return 0
		}
		return rt.base + n
	}
	return int(unix.SignalNum(name))
}

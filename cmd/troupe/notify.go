package main

import (
	"context"
	"log/slog"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// notify tells systemd a state (sd_notify(3)); without systemd it does nothing.
func notify(log *slog.Logger, state ...string) {
	if _, err := systemd.SdNotify(false, strings.Join(state, "\n")); err != nil {
		log.Warn("systemd could not be told the daemon's state", "state", state, "error", err)
	}
}

// watchdog tells systemd that the daemon works for as long as it does: it asks
// itself over the socket, the way a kubelet would. One that hangs is killed
// and started again by systemd; containers do not notice.
func watchdog(ctx context.Context, log *slog.Logger, socket string) {
	interval, err := systemd.SdWatchdogEnabled(false)
	if err != nil || interval <= 0 {
		return
	}
	conn, err := dial(socket)
	if err != nil {
		log.Error("no watchdog: the own socket cannot be dialled", "socket", socket, "error", err)
		return
	}
	defer func() { _ = conn.Close() }()
	service := runtime.NewRuntimeServiceClient(conn)
	tick := time.NewTicker(interval / 3)
	defer tick.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, interval/3)
		_, err := service.Status(asking, &runtime.StatusRequest{})
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Error("the daemon does not answer itself; systemd will restart it if that lasts", "within", interval, "error", err)
		default:
			notify(log, systemd.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

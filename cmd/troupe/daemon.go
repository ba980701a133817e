package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	runtimedebug "runtime/debug"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/troupe-run/troupe/actors"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/cmd/troupe/config"
	"github.com/troupe-run/troupe/cri"
	"github.com/troupe-run/troupe/supervisor"
	"golang.org/x/sys/unix"
)

// recoveryLimit is how long reading the journal may take at start.
const recoveryLimit = 2 * time.Minute

// shutdownLimit is how long the actors and their jobs may take to end.
const shutdownLimit = 5 * time.Second

// daemon is the running program, from the bottom up.
type daemon struct {
	config  *config.Loaded
	log     *logging
	signals <-chan os.Signal
	build   func(*config.Config, *slog.Logger) (*machine, error)

	machine *machine
	tree    *supervisor.Tree
	server  *cri.Server
	debug   *cri.Debug     // nil: switched off
	failed  chan error     // a server that ended by itself
	onEnd   []func() error // given back at the end, the last first
	ready   func()         // for tests
}

// runDaemon is `troupe`: it returns when the daemon was told to end and has.
func runDaemon(ctx context.Context, src config.Source, stderr io.Writer) error {
	// The node's memory is its pods': half as much garbage as what lives, not as
	// much.
	if os.Getenv("GOGC") == "" {
		runtimedebug.SetGCPercent(50)
	}
	loaded, err := config.Load(src)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("the daemon needs root: it makes namespaces, mounts and cgroups; start it with sudo or by systemd")
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1)
	defer signal.Stop(signals)
	signal.Ignore(unix.SIGPIPE) // a reader of our log that went away must not end the node's daemon
	unix.Umask(0o022)           // modes are meant as written: containers of any user look into what is made here
	d := &daemon{config: loaded, log: newLogging(stderr, loaded.Config), signals: signals, build: buildMachine}
	return d.run(ctx)
}

func (d *daemon) run(ctx context.Context) (err error) {
	d.failed = make(chan error, 2)
	defer func() { err = errors.Join(err, d.giveBack()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := d.start(ctx); err != nil {
		return err
	}
	notify(d.log.Logger, systemd.SdNotifyReady, "STATUS=serving on "+d.socket())
	d.log.Info("ready", "socket", d.socket(), "pods", len(d.tree.View().Pods()))
	if d.ready != nil {
		d.ready()
	}
	go watchdog(ctx, d.log.Logger, d.socket())
	err = d.untilToldToEnd()
	cancel() // the watchdog must not ask a daemon that is ending
	return errors.Join(err, d.drain())
}

// greet says who starts with which files, and names what has no effect.
func (d *daemon) greet() {
	d.log.Info("starting", "version", buildOf().String(), "pid", os.Getpid(), "files", d.config.Files)
	d.warn()
}

func (d *daemon) warn() {
	for _, f := range d.config.Findings {
		what := "option known but not honoured"
		if f.Unknown {
			what = "unknown option"
		}
		d.log.Warn(what, "option", f.Key, "file", f.File, "value", f.Value, "why", f.Why)
	}
}

func (d *daemon) socket() string { return config.SocketPath(d.config.API.Listen) }

// sockets are the ones to serve on: CRI's, and the debug socket unless it is off.
func (d *daemon) sockets() []string {
	sockets := []string{d.socket()}
	if debug := d.config.Troupe.DebugListen; debug != config.None {
		sockets = append(sockets, config.SocketPath(debug))
	}
	return sockets
}

// start goes from the bottom up. What could be another daemon's is checked
// before anything is touched.
func (d *daemon) start(ctx context.Context) error {
	unlock, err := lockDirs(d.config.Troupe.Root, d.config.Troupe.Run)
	if err != nil {
		return err
	}
	d.atEnd(func() error { unlock(); return nil })
	taken := d.sockets()
	if socket := d.config.UseNRISocket(); d.config.NRI.Enable && socket != "" {
		taken = append(taken, socket)
	}
	for _, socket := range taken {
		if err := checkFree(socket); err != nil {
			return err
		}
	}
	d.greet()
	d.note()
	if d.machine, err = d.build(d.config.Config, d.log.Logger); err != nil {
		return fmt.Errorf("the node cannot be used: %w", err)
	}
	d.atEnd(d.machine.close)
	if err := d.startTree(ctx); err != nil {
		return err
	}
	if err := d.servePlugins(); err != nil {
		return err
	}
	return d.serve(ctx)
}

func (d *daemon) startTree(ctx context.Context) (err error) {
	lanes, settings := d.config.Troupe.Lanes, actors.DefaultSettings()
	settings.SweepGrace = d.config.Troupe.SweepGrace
	settings.SweepEvery = min(settings.SweepEvery, settings.SweepGrace)
	ctx, cancel := context.WithTimeout(ctx, recoveryLimit)
	defer cancel()
	d.tree, err = supervisor.Start(ctx, supervisor.Config{
		Node: d.machine.Node, Log: d.log.Logger, Settings: settings, Boot: backends.BootID(),
		Limits: supervisor.Limits{
			Start: int64(lanes.Start), Stop: int64(lanes.Stop), Probe: int64(lanes.Probe),
			Image: int64(lanes.Image), Layer: int64(lanes.Layer), Read: int64(lanes.Read),
		},
	})
	if err != nil {
		return fmt.Errorf("the pods on this node could not be taken up: %w", err)
	}
	d.atEnd(d.stopTree) // nothing is left to do after a drain
	return nil
}

// serve opens all sockets, then answers on them.
func (d *daemon) serve(ctx context.Context) (err error) {
	gateway := criConfig(d.config.Config, d.machine.handlers, criNode{d.tree}, d.machine.meter, d.log.Logger)
	if d.server, err = cri.New(withUserNamespaces(gateway, d.config.Handlers, d.machine.mapped)); err != nil {
		return err
	}
	var listeners []net.Listener
	for _, socket := range d.sockets() {
		l, err := listen(ctx, socket)
		if err != nil {
			return err
		}
		d.atEnd(func() error { return ignoreClosed(l.Close()) })
		listeners = append(listeners, l)
	}
	if err := d.serveMetrics(ctx); err != nil {
		return err
	}
	if err := d.server.ServeStreams(); err != nil {
		return &config.Error{Err: err}
	}
	go func() { d.failed <- d.server.Serve(listeners[0]) }()
	if len(listeners) > 1 {
		d.debug = cri.NewDebug(d.server)
		go func() { d.failed <- d.debug.Serve(listeners[1]) }()
	}
	return nil
}

func (d *daemon) serveMetrics(ctx context.Context) error {
	if !d.config.Metrics.Enable {
		return nil
	}
	stop, err := serveMetrics(ctx, d.config.Metrics, d.tree.View)
	if err != nil {
		return err
	}
	d.atEnd(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		stop(ctx)
		return nil
	})
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (d *daemon) atEnd(f func() error) { d.onEnd = append(d.onEnd, f) }

// giveBack undoes start, the last first.
func (d *daemon) giveBack() error {
	var errs []error
	for i := len(d.onEnd) - 1; i >= 0; i-- {
		errs = append(errs, d.onEnd[i]())
	}
	d.onEnd = nil
	return errors.Join(errs...)
}

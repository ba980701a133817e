// Package nri lets NRI plugins (github.com/containerd/nri) see the node's pods
// and containers and adjust containers. The library speaks with the plugins;
// this package says what there is, in its words, and does what they ask for.
//
// A plugin hears of every pod and container exactly once: in what it is
// synchronized with when it registers, or by RunPodSandbox and CreateContainer.
// While one is synchronized, calls about pods and containers wait; what they
// tell is taken down before the next plugin can come.
package nri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/log"
	validator "github.com/containerd/nri/plugins/default-validator/builtin"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// Config is [crio.nri] of crio.conf(5).
type Config struct {
	Socket       string                             // where plugins connect; empty: nowhere
	PluginDir    string                             // plugins that are started with the daemon
	ConfigDir    string                             // their configurations
	Registration time.Duration                      // limit for a plugin
	Request      time.Duration                      // limit for a plugin; one that exceeds it is disconnected
	Version      string                             // ours
	Validator    Validator                          // of adjustments
	Spec         func(pod, container string) string // the path of a container's config.json
	Log          *slog.Logger
}

// Validator says what plugins may not do; the library checks it.
type Validator = validator.DefaultValidatorConfig

// Host is the daemon as plugins' wishes reach it.
type Host interface {
	View() messages.View
	Ask(ctx context.Context, request any) (any, error)
}

// Backend implements backends.Plugins, and bundles.Adjust by Adjust. Until
// Serve there are no plugins.
type Backend struct {
	config  Config
	log     *slog.Logger
	known   registry
	plugins atomic.Int64

	// gate is held while plugins are started, and by each call.
	gate       sync.RWMutex
	adaptation *adaptation.Adaptation
	host       Host

	wishes context.Context // of plugins; ends with Close
	end    context.CancelFunc
}

var _ backends.Plugins = (*Backend)(nil)

// New serves nobody yet.
func New(c Config) *Backend {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	b := &Backend{config: c, log: c.Log, known: newRegistry()}
	b.wishes, b.end = context.WithCancel(context.Background())
	return b
}

// Serve starts the plugins in PluginDir and lets others connect. It is called
// once, when the node's pods are known and before requests are served.
func (b *Backend) Serve(host Host) error {
	b.gate.Lock()
	defer b.gate.Unlock()
	log.Set(logger{b.log})
	adaptation.SetPluginRegistrationTimeout(b.config.Registration)
	adaptation.SetPluginRequestTimeout(b.config.Request)
	options := []adaptation.Option{
		adaptation.WithPluginPath(b.config.PluginDir), adaptation.WithPluginConfigPath(b.config.ConfigDir), adaptation.WithMetrics(meter{b}),
		adaptation.WithDefaultValidator(&b.config.Validator),
	}
	if b.config.Socket == "" {
		options = append(options, adaptation.WithDisabledExternalConnections())
	} else {
		// The directory is ours alone: whoever can connect rules the containers.
		if err := os.MkdirAll(filepath.Dir(b.config.Socket), 0o700); err != nil {
			return b.unusable(err)
		}
		options = append(options, adaptation.WithSocketPath(b.config.Socket))
	}
	b.host = host
	r, err := adaptation.New("troupe", b.config.Version, b.synchronize, b.unsolicited, options...)
	if err != nil {
		return fmt.Errorf("nri: %w", err)
	}
	if err := r.Start(); err != nil {
		r.Stop()
		return b.unusable(err)
	}
	if b.config.Socket != "" {
		if err := os.Chmod(b.config.Socket, 0o600); err != nil {
			r.Stop()
			return b.unusable(err)
		}
	}
	b.adaptation = r
	return nil
}

func (b *Backend) unusable(err error) error {
	return fmt.Errorf("nri: %w; correct it, give nri_listen and nri_plugin_dir in [crio.nri] other places, or set enable_nri = false", err)
}

// Close disconnects the plugins. Those that connected by themselves come again
// when the next daemon serves.
func (b *Backend) Close() error {
	b.end()
	b.gate.Lock()
	r := b.adaptation
	b.adaptation = nil
	b.gate.Unlock()
	var err error
	if r != nil {
		r.Stop()
		if b.config.Socket != "" {
			if gone := os.Remove(b.config.Socket); gone != nil && !errors.Is(gone, os.ErrNotExist) {
				err = fmt.Errorf("nri: %w", gone)
			}
		}
	}
	return err
}

// enter begins a call: until leave no plugin is synchronized. r is nil when
// there is no plugin to tell.
func (b *Backend) enter() (r *adaptation.Adaptation, leave func()) {
	b.gate.RLock()
	if b.adaptation == nil {
		return nil, b.gate.RUnlock
	}
	block := b.adaptation.BlockPluginSync()
	leave = func() { block.Unblock(); b.gate.RUnlock() }
	if b.plugins.Load() == 0 {
		return nil, leave
	}
	return b.adaptation, leave
}

// own is a context for plugins. Only a plugin's own slowness may end a call:
// the library disconnects one whose call was ended, whoever ended it.
func own(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

// meter hears how many plugins there are.
type meter struct{ b *Backend }

func (m meter) UpdatePluginCount(count int) { m.b.plugins.Store(int64(count)) }

func (meter) RecordPluginInvocation(string, string, error) {}

func (meter) RecordPluginLatency(string, string, time.Duration) {}

func (meter) RecordPluginAdjustments(string, string, *adaptation.ContainerAdjustment, int, int) {}

// logger is the library's way to our log.
type logger struct{ *slog.Logger }

func (l logger) put(ctx context.Context, level slog.Level, format string, args []any) {
	if l.Enabled(ctx, level) {
		l.Log(ctx, level, fmt.Sprintf(format, args...))
	}
}

// Debugf implements the library's Logger.
func (l logger) Debugf(ctx context.Context, format string, args ...any) {
	l.put(ctx, slog.LevelDebug, format, args)
}

// Infof implements the library's Logger.
func (l logger) Infof(ctx context.Context, format string, args ...any) {
	l.put(ctx, slog.LevelInfo, format, args)
}

// Warnf implements the library's Logger.
func (l logger) Warnf(ctx context.Context, format string, args ...any) {
	l.put(ctx, slog.LevelWarn, format, args)
}

// Errorf implements the library's Logger.
func (l logger) Errorf(ctx context.Context, format string, args ...any) {
	l.put(ctx, slog.LevelError, format, args)
}

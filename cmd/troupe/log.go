package main

import (
	"context"
	"io"
	"log/slog"
	"regexp"
	"sync/atomic"

	"github.com/troupe-run/troupe/cmd/troupe/config"
	"k8s.io/klog/v2"
)

// logging is the daemon's log; level and filter can change while it runs.
// pod, container and step are attributes its users give.
type logging struct {
	*slog.Logger
	level  *slog.LevelVar
	filter *atomic.Pointer[regexp.Regexp]
}

func newLogging(w io.Writer, c *config.Config) *logging {
	l := &logging{level: &slog.LevelVar{}, filter: &atomic.Pointer[regexp.Regexp]{}}
	options := &slog.HandlerOptions{Level: l.level}
	var handler slog.Handler = slog.NewTextHandler(w, options)
	if c.Troupe.LogFormat == "json" {
		handler = slog.NewJSONHandler(w, options)
	}
	l.Logger = slog.New(filtered{handler, l.filter})
	l.apply(c)
	klog.SetSlogLogger(l.Logger.With("from", "k8s.io")) // cri-streaming's
	return l
}

// apply takes over level and filter.
func (l *logging) apply(c *config.Config) {
	l.level.Set(levels[c.Runtime.LogLevel])
	if c.Runtime.LogFilter == "" {
		l.filter.Store(nil)
		return
	}
	l.filter.Store(regexp.MustCompile(c.Runtime.LogFilter)) // checked when it was read
}

// levels maps crio.conf(5)'s names, which are logrus's, to slog's.
var levels = map[string]slog.Level{
	"trace": slog.LevelDebug - 4, "debug": slog.LevelDebug, "info": slog.LevelInfo, "": slog.LevelInfo,
	"warn": slog.LevelWarn, "warning": slog.LevelWarn, "error": slog.LevelError,
	"fatal": slog.LevelError + 4, "panic": slog.LevelError + 4,
}

// filtered drops what does not match log_filter; warnings and errors pass, so
// that a filter forgotten in the configuration hides no failure.
type filtered struct {
	slog.Handler
	filter *atomic.Pointer[regexp.Regexp]
}

func (f filtered) Handle(ctx context.Context, r slog.Record) error {
	if only := f.filter.Load(); only != nil && r.Level < slog.LevelWarn && !only.MatchString(r.Message) {
		return nil
	}
	return f.Handler.Handle(ctx, r)
}

func (f filtered) WithAttrs(attrs []slog.Attr) slog.Handler {
	return filtered{f.Handler.WithAttrs(attrs), f.filter}
}

func (f filtered) WithGroup(name string) slog.Handler {
	return filtered{f.Handler.WithGroup(name), f.filter}
}

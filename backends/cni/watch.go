package cni

import (
	"context"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is waited after an event: files come in bursts.
const settle = 100 * time.Millisecond

// Watch calls changed when a file in the configuration or plugin directories
// has changed. The kernel's events make it quick; a timer makes it certain
// (events are lost, directories are made late, inotify has limits). With the
// timer it also looks after the rules of host ports.
func (b *Backend) Watch(ctx context.Context, changed func()) error {
	dirs := append([]string{b.config.ConfDir}, b.config.PluginDirs...)
	var events chan fsnotify.Event
	var failures chan error
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		b.config.Log.Warn("no events from the kernel: CNI configuration is only looked at by a timer", "every", b.config.Reread, "error", err)
	} else {
		defer func() { _ = watcher.Close() }()
		events, failures = watcher.Events, watcher.Errors
	}
	timer := time.NewTicker(b.config.Reread)
	defer timer.Stop()
	var soon <-chan time.Time
	last := fingerprint(dirs...)
	b.heal()
	for {
		// Also a directory that was made, or made anew, since the last turn.
		for _, dir := range dirs {
			if watcher != nil {
				_ = watcher.Add(dir)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-events:
			if soon == nil {
				soon = time.After(settle)
			}
			continue
		case err := <-failures:
			b.config.Log.Debug("event of the CNI directories lost", "error", err)
		case <-soon:
			soon = nil
		case <-timer.C:
			b.heal()
		}
		if now := fingerprint(dirs...); now != last {
			last = now
			changed()
		}
	}
}

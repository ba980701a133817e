package main

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/log"
	"github.com/containerd/nri/pkg/stub"
)

// plugin is an NRI plugin that lets all pass: with one connected, the step that
// tells plugins of a pod is one. It comes back when the daemon does.
type plugin struct{}

// RunPodSandbox implements stub.RunPodInterface.
func (plugin) RunPodSandbox(context.Context, *api.PodSandbox) error { return nil }

// withPlugin: the stories of that step have one.
func (s *story) withPlugin() bool { return strings.HasPrefix(s.r.Task.Point, "step/sandbox/plugins/") }

// plugIn connects a plugin, again and again, until ctx ends. It returns when it
// was connected for the first time.
func (s *story) plugIn(ctx context.Context) error {
	first := make(chan struct{})
	go func() {
		once := false
		for ctx.Err() == nil {
			gone := make(chan struct{})
			p, err := stub.New(plugin{}, stub.WithPluginName("crash"), stub.WithPluginIdx("10"),
				stub.WithSocketPath(s.n.daemon.NRISocket), stub.WithOnClose(func() { close(gone) }))
			if err == nil {
				err = p.Start(ctx)
			}
			if err != nil { // the daemon is not there
				time.Sleep(20 * time.Millisecond)
				continue
			}
			if !once {
				once = true
				close(first)
			}
			select {
			case <-ctx.Done():
				p.Stop()
			case <-gone:
			}
		}
	}()
	select {
	case <-first:
		return nil
	case <-time.After(10 * time.Second):
		return context.DeadlineExceeded
	}
}

func init() { log.Set(silent{}) } // the library says each connection

type silent struct{}

func (silent) Debugf(context.Context, string, ...any) {}
func (silent) Infof(context.Context, string, ...any)  {}
func (silent) Warnf(context.Context, string, ...any)  {}
func (silent) Errorf(context.Context, string, ...any) {}

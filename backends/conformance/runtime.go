package conformance

import (
	"context"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// Program is what a container of the suite does.
type Program int

// The programs.
const (
	Sleeps  Program = iota // runs until it gets a signal
	Exits3                 // ends at once with exit code 3
	Missing                // names a command that does not exist
)

// RuntimeHarness is what the suite needs beside the interface.
type RuntimeHarness struct {
	// New gives a runtime that holds nothing; the suite connects it.
	New func(t *testing.T) backends.Runtime
	// Process makes a runnable bundle of a new pod and container.
	Process func(t *testing.T, p Program) backends.ProcessRequest
	// Echo is a command that prints "hello" and a newline, and exits with 3;
	// Hang is one that does not end by itself.
	Echo, Hang []string
	Cat        []string // copies its stdin
}

// connected is a runtime whose facts the suite sees.
type connected struct {
	backends.Runtime
	RuntimeHarness
	facts chan messages.ProcessState
}

// Runtime checks the promises of backends.Runtime.
func Runtime(t *testing.T, h RuntimeHarness) {
	t.Run("ACommandRunsBetweenStartAndItsExit", h.with(aCommandRuns))
	t.Run("CreateTwiceIsCreateOnce", h.with(createTwice))
	t.Run("ACommandThatDoesNotExistIsFoundByStart", h.with(missingCommand))
	t.Run("AKilledProcessReports137", h.with(killed))
	t.Run("TheUnknownIsGone", h.with(unknown))
	t.Run("DeleteKillsAndForgets", h.with(deleted))
	t.Run("ExecCapturesAndTimesOut", h.with(execs))
	t.Run("AStreamedExecGivesItsExitCode", h.with(execStreams))
	t.Run("AStreamedExecEndsWithItsClient", h.with(execStreamEnds))
	t.Run("AttachEndsWithTheContainerOrTheClient", h.with(attaches))
	t.Run("WhatLivesIsUpdated", h.with(updates))
	t.Run("WhatRunsIsPausedAndResumed", h.with(pauses))
	t.Run("AReconnectTellsEveryState", h.with(reconnects))
	t.Run("LeftoversAreHeldAndCanBeDropped", h.with(leftovers))
}

func (h RuntimeHarness) with(f func(*testing.T, *connected)) func(*testing.T) {
	return func(t *testing.T) {
		c := &connected{Runtime: h.New(t), RuntimeHarness: h, facts: make(chan messages.ProcessState, 100)}
		t.Cleanup(c.connect(t))
		f(t, c)
	}
}

// connect returns when the states have been told; hangUp ends the connection.
func (c *connected) connect(t *testing.T) (hangUp func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- c.Connect(ctx, func(s messages.ProcessState) { c.facts <- s }, func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("connect: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("connect: not ready after 30 s")
	}
	return func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Error("Connect goes on after its context has ended")
		}
	}
}

// exit is the next exit that is told of a container.
func (c *connected) exit(t *testing.T, r backends.ProcessRequest) messages.ProcessState {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case s := <-c.facts:
			if s.Pod == r.Pod && s.Container == r.Container && s.Status == messages.ProcessExited {
				return s
			}
		case <-limit:
			t.Fatal("the exit was not told within 30 s")
		}
	}
}

func (c *connected) run(t *testing.T, p Program) backends.ProcessRequest {
	t.Helper()
	r := c.Process(t, p)
	_, err := c.Create(context30s(t), r)
	must(t, err)
	_, err = c.Start(context30s(t), r.Pod, r.Container)
	must(t, err)
	return r
}

func (c *connected) wantStatus(t *testing.T, r backends.ProcessRequest, want messages.ProcessStatus) {
	t.Helper()
	s, err := c.State(context30s(t), r.Pod, r.Container)
	must(t, err)
	if s.Status != want || s.Pod != r.Pod || s.Container != r.Container {
		t.Errorf("state is %+v, want %s", s, want)
	}
}

func wantErrorKind(t *testing.T, err error, kind messages.Kind) {
	t.Helper()
	if err == nil || messages.KindOf(err) != kind {
		t.Errorf("error %v has kind %d, want %d", err, messages.KindOf(err), kind)
	}
}

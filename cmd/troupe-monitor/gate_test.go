//go:build linux && cgo

package main

import (
	"testing"
	"testing/synctest"
	"time"
)

// A fork that hangs in the kernel keeps nobody else out for longer than a moment.
func TestAGateThatCannotBeShutLetsTheOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		g.enter() // and hangs
		if g.shut(0) {
			t.Fatal("shut with somebody inside")
		}
		begin := time.Now()
		shut := make(chan bool)
		go func() { shut <- g.shut(time.Second) }()
		synctest.Wait()
		in := make(chan struct{})
		go func() { g.enter(); close(in) }()
		synctest.Wait()
		select {
		case <-in:
			t.Error("somebody came in while it was being shut")
		default:
		}
		if <-shut {
			t.Error("shut with somebody inside")
		}
		<-in
		if took := time.Since(begin); took != time.Second {
			t.Errorf("the second waited %s", took)
		}
		g.leave()
		go func() { shut <- g.shut(time.Second) }()
		synctest.Wait()
		g.leave()
		if !<-shut {
			t.Error("not shut although nobody is inside")
		}
		g.open()
		g.enter()
		g.leave()
	})
}

package monitor

import (
	"context"
	"time"

	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// askedInVain is how many questions in a row a monitor may leave unanswered. It
// is more than one: after both were stopped for a while (a suspended machine, a
// debugger) the answer to the first may lie there unread.
const askedInVain = 3

// watch asks the monitor now and then for something that needs nothing, for as
// long as the connection lasts. One that lives and answers nothing for about
// Config.Patience (a bug, a kernel that has stopped its threads) is killed: its
// keeper starts another, containers do not notice, and until then no container of
// the node could be started or stopped.
func (c *Client) watch(s *session) {
	// Not by its number alone, which may be somebody else's by then.
	pidfd, err := unix.PidfdOpen(s.monitorPid, 0)
	if err != nil {
		c.cfg.Log.Warn("the monitor is not watched over", "pid", s.monitorPid, "err", err)
		return
	}
	defer unix.Close(pidfd)
	pause := c.cfg.Patience / askedInVain / 2 // before a question, and for its answer
	for vain := 0; vain < askedInVain; {
		select {
		case <-s.gone:
			return
		case <-time.After(pause):
		}
		ctx, cancel := context.WithTimeout(context.Background(), pause)
		_, _ = s.call(ctx, wire.OpState, wire.Ref{Pod: "watch", Container: "watch"}) // any answer will do
		if ctx.Err() == nil {
			vain = 0
		} else {
			vain++
		}
		cancel()
	}
	if s.ended() {
		return
	}
	c.cfg.Log.Error("the monitor answers nothing: it is killed, and its keeper starts another; containers run on", "pid", s.monitorPid, "patience", c.cfg.Patience)
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil {
		c.cfg.Log.Error("the monitor that answers nothing cannot be killed", "pid", s.monitorPid, "err", err)
	}
}

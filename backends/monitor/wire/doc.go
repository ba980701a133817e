// Package wire is the protocol between the daemon and troupe-monitor: what the
// two say to each other and how it is framed on their unix socket. It uses the
// standard library only, because whatever the monitor links, every container
// start pays for: the monitor's binary is also the init that libcontainer
// re-executes.
//
// The client sends requests, many at a time, each with an id of its own; the
// monitor answers in any order with the same id. The first request of a
// connection is OpHello. After OpWatch the monitor also pushes events, which
// have id 0. OpCancel is not answered: it makes the monitor give up the
// request it names, as far as that can be given up.
package wire

// Package harness gives tests, the demo and the benchmark a Kubernetes node in
// miniature that is theirs alone: mount, network and process namespaces of
// their own (Enter), a directory on tmpfs (Lab), a private daemon with its own
// CNI network, a loopback registry with images made on the spot, crictl, and a
// way to compare the node before and after (Survey). Nothing outside the lab's
// directory is changed.
//
// It knows the daemon only as its users do: a binary, a configuration file and
// a socket.
package harness

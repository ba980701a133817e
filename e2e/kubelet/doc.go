// Package kubelet tests Troupe under a real kubelet: the one of Kubernetes
// v1.37.2, as released, on a node of its own (harness.Enter), with static pods
// written as an operator writes them, and beside a real API server for what
// static pods cannot have. `make kubelet-test` runs it and says of each item
// whether it passed; the tests have the build tag kubelet because they need
// what `make kubelet` builds in some ten minutes.
package kubelet

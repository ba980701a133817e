package messages

import "net/netip"

// SetPodRanges tells the ranges that the addresses of this node's pods are to
// be from: what the kubelet was given as the node's pod CIDR, one per family.
type SetPodRanges struct {
	Call
	Ranges []netip.Prefix
}

// Answers says the reply is empty.
func (SetPodRanges) Answers(None) {}

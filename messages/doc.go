// Package messages holds what the parts of Troupe say to each other: requests,
// replies, facts, the kinds of errors, and the immutable snapshots that reads
// are answered from. It imports nothing of ours and no actor library; the CRI
// types are its vocabulary. Messages are sent by value and never changed after
// sending.
package messages

package messages

import (
	"context"
	"errors"
	"fmt"
)

// Kind says what sort of failure an error is. Backends and steps choose it;
// cri/status.go is the one place that turns it into a gRPC code.
type Kind int

// The kinds. The zero value is Internal: an error nobody classified.
const (
	Internal     Kind = iota
	NotFound          // unknown id in Status, Start, Exec… (Stop and Remove turn it into success)
	Invalid           // refused at the door: the request itself is wrong
	Exists            // the name is held by another id
	Precondition      // not possible from the present state
	Busy              // a limit of ours is reached
	Unavailable       // starting up, shutting down, a backend cannot be reached
	Unsupported       // an RPC this version does not know
	Deadline          // the time given has passed
	Canceled          // the caller went away
	NoSpace           // the disk is full
	Unauthorized      // a registry refused the credentials
	// The next ones keep the words the kubelet looks for at the start of the
	// message (cri-api pkg/errors/errors.go).
	RegistryUnavailable
	SignatureValidationFailed
	RROUnsupported
	ImageVolumeMountFailed
)

var prefixes = map[Kind]string{
	RegistryUnavailable:       "RegistryUnavailable",
	SignatureValidationFailed: "SignatureValidationFailed",
	RROUnsupported:            "RROUnsupported",
	ImageVolumeMountFailed:    "ImageVolumeMountFailed",
}

// Prefix is the word an error of this kind must start with on its way to the
// kubelet, or empty.
func (k Kind) Prefix() string { return prefixes[k] }

// Error is an error with a kind.
type Error struct {
	Kind Kind
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives errors.Is and errors.As the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an error of a kind; the format is fmt.Errorf's.
func Errorf(kind Kind, format string, args ...any) error {
	return &Error{Kind: kind, Err: fmt.Errorf(format, args...)}
}

// KindOf is the kind of the outermost classified error in the chain. Context
// errors are Deadline and Canceled wherever they stand in it unless classified.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.DeadlineExceeded):
		return Deadline
	case errors.Is(err, context.Canceled):
		return Canceled
	}
	return Internal
}

package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"syscall"

	"github.com/docker/distribution/registry/api/errcode"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/docker"
	"go.podman.io/storage"
)

// registryError classifies what a registry, or the way to it, has answered.
func registryError(ctx context.Context, err error, format string, args ...any) error {
	return messages.Errorf(registryKind(ctx, err), "%s: %w", fmt.Sprintf(format, args...), err)
}

func registryKind(ctx context.Context, err error) messages.Kind {
	var classified *messages.Error
	var refused docker.ErrUnauthorizedForCredentials
	var onTheWay *url.Error
	var network net.Error
	switch {
	case errors.As(err, &classified):
		return classified.Kind
	case ctx.Err() != nil:
		return messages.KindOf(ctx.Err())
	case errors.As(err, &refused):
		return messages.Unauthorized
	case errors.Is(err, docker.ErrTooManyRequests):
		return messages.RegistryUnavailable
	}
	switch code := httpStatus(err); {
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return messages.Unauthorized
	case code == http.StatusNotFound:
		return messages.NotFound
	case code == http.StatusTooManyRequests, code >= 500:
		return messages.RegistryUnavailable
	case errors.As(err, &onTheWay), errors.As(err, &network), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return messages.RegistryUnavailable
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EPIPE):
		return messages.RegistryUnavailable
	}
	return messages.Internal
}

// The library keeps the status of an answer that is not the specification's
// JSON only in the text.
var statusInText = regexp.MustCompile(`StatusCode: (\d{3})|invalid status code from registry (\d{3})|HTTP (\d{3}) response`)

func httpStatus(err error) int {
	var unexpected docker.UnexpectedHTTPStatusError
	if errors.As(err, &unexpected) {
		return unexpected.StatusCode
	}
	var code errcode.Error
	if errors.As(err, &code) {
		return code.Code.Descriptor().HTTPStatusCode
	}
	if found := statusInText.FindStringSubmatch(err.Error()); found != nil {
		status, _ := strconv.Atoi(found[1] + found[2] + found[3])
		return status
	}
	return 0
}

// storeError classifies what the store or the disk has answered.
func storeError(err error, format string, args ...any) error {
	return messages.Errorf(storeKind(err), "%s: %w", fmt.Sprintf(format, args...), err)
}

func storeKind(err error) messages.Kind {
	var classified *messages.Error
	switch {
	case errors.As(err, &classified):
		return classified.Kind
	case isFull(err):
		return messages.NoSpace
	case errors.Is(err, storage.ErrImageUnknown), errors.Is(err, storage.ErrNotAnImage):
		return messages.NotFound
	case errors.Is(err, storage.ErrImageUsedByContainer):
		return messages.Precondition
	}
	return messages.KindOf(err)
}

// isFull is for this node's disks: a registry whose own disk is full says the
// same words, so they do not count.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

package cri

import (
	"strings"

	"github.com/troupe-run/troupe/messages"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// grpcCodes is the one place where kinds of errors become gRPC codes.
//
// The four kinds whose words the kubelet looks for at the start of the message
// must go as Unknown: its client strips "rpc error: code = …" from that code
// only, and compares with what is left (k8s.io/cri-client
// pkg/remote_image.go, pullImageV1).
var grpcCodes = map[messages.Kind]codes.Code{
	messages.Internal:     codes.Internal,
	messages.NotFound:     codes.NotFound,
	messages.Invalid:      codes.InvalidArgument,
	messages.Exists:       codes.AlreadyExists,
	messages.Precondition: codes.FailedPrecondition,
	messages.Busy:         codes.ResourceExhausted,
	messages.Unavailable:  codes.Unavailable,
	messages.Unsupported:  codes.Unimplemented,
	messages.Deadline:     codes.DeadlineExceeded,
	messages.Canceled:     codes.Canceled,
	messages.NoSpace:      codes.ResourceExhausted,
	messages.Unauthorized: codes.Unauthenticated,

	messages.RegistryUnavailable:       codes.Unknown,
	messages.SignatureValidationFailed: codes.Unknown,
	messages.RROUnsupported:            codes.Unknown,
	messages.ImageVolumeMountFailed:    codes.Unknown,
}

// maxErrorText is how much of an error's text is sent, in bytes: it travels in
// a header, and a client refuses large ones together with the error.
const maxErrorText = 8 << 10

// grpcError turns an error into the one that is sent for the RPC. What gRPC
// itself made (a broken stream, say) passes as it is.
func grpcError(full string, err error) error {
	if err == nil {
		return nil
	}
	if own, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return own.GRPCStatus().Err()
	}
	kind := messages.KindOf(err)
	code, ok := grpcCodes[kind]
	if !ok {
		code = codes.Internal
	}
	// An unclassified failure of a pull is most often the registry's. With
	// this code the kubelet shows the text alone.
	if code == codes.Internal && full == runtime.ImageService_PullImage_FullMethodName {
		code = codes.Unknown
	}
	return status.Error(code, errorText(kind, err))
}

// errorText is the error's text with the kubelet's word in front, if its kind
// has one.
func errorText(kind messages.Kind, err error) string {
	text := err.Error()
	if word := kind.Prefix(); word != "" && !strings.HasPrefix(text, word) {
		text = word + ": " + text
	}
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "… (cut)"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

package cri

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"strings"

	"github.com/troupe-run/troupe/messages"
	"google.golang.org/grpc/metadata"
)

// ask sends a request to the node; the compiler checks that the answer is of
// the type the request names.
func ask[R any](ctx context.Context, node Node, request messages.Request[R]) (R, error) {
	var none R
	value, err := node.Ask(ctx, request)
	if err != nil {
		return none, err
	}
	answer, ok := value.(R)
	if !ok {
		return none, messages.Errorf(messages.Internal, "the node answered %T with %T, not %T: this is a bug, please report it", request, value, none)
	}
	return answer, nil
}

// gone makes an idempotent call of one that may not find what it is to take
// away: cri-api wants Stop and Remove to succeed then.
func gone(err error) error {
	if err != nil && messages.KindOf(err) == messages.NotFound {
		return nil
	}
	return err
}

type traceKey struct{}

// callOf is what every request says about its caller.
func callOf(ctx context.Context) messages.Call {
	trace, _ := ctx.Value(traceKey{}).(string)
	until, _ := ctx.Deadline()
	return messages.Call{Deadline: until, Trace: trace}
}

// withTrace gives the RPC an id that joins its log lines: the trace id of the
// caller's span if it sends one (W3C traceparent: version-trace-span-flags),
// else a fresh one.
func withTrace(ctx context.Context) (context.Context, string) {
	trace := ""
	if parent := metadata.ValueFromIncomingContext(ctx, "traceparent"); len(parent) == 1 {
		if parts := strings.Split(parent[0], "-"); len(parts) == 4 && len(parts[1]) == 32 && isHex(parts[1]) {
			trace = parts[1]
		}
	}
	if trace == "" {
		var id [8]byte
		rand.Read(id[:]) // never fails (crypto/rand)
		trace = hex.EncodeToString(id[:])
	}
	return context.WithValue(ctx, traceKey{}, trace), trace
}

func isHex(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil
}

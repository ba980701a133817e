package cri_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// FuzzGateway sends up to eight requests, each a valid one that was spoiled, to
// the gateway of a whole node in memory: real gRPC, real actors, the fake
// backends. What it holds the node to, whatever was asked:
//
//   - nothing panics, neither in an RPC nor in an actor;
//   - an answer says who is to blame: Internal and Unknown are not among them,
//     but where excused says why;
//   - what was refused has changed nothing;
//   - every call ends;
//   - afterwards all pods can be removed, and the node is empty.
func FuzzGateway(f *testing.F) {
	for _, seed := range seeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		w := newWorld(t)
		defer w.close()
		in := &source{left: input}
		settled := true // no call was left that may still be at work
		for calls := 0; calls < 8 && in.more(); calls++ {
			m := w.methods[in.upTo(len(w.methods))]
			data := w.request(m, in)
			before := w.state()
			err := w.send(m, data)
			w.judge(m, err)
			switch code := status.Code(err); {
			case code == codes.DeadlineExceeded || code == codes.Canceled:
				settled = false
			case err != nil && settled:
				w.unchanged(m, before, err)
			}
		}
	})
}

// judge holds an answer to what was promised.
func (w *world) judge(m method, err error) {
	w.t.Helper()
	switch code := status.Code(err); code {
	case codes.Internal, codes.Unknown:
		if !excused(code, status.Convert(err).Message()) {
			w.t.Errorf("%s: %v", m.full, err)
		}
	}
	if log := w.log.String(); strings.Contains(log, "panic") {
		w.t.Fatalf("%s: a panic:\n%s", m.full, log)
	}
}

// excused are the answers that may have a code which blames the runtime.
func excused(code codes.Code, text string) bool {
	if code == codes.Internal {
		// The bytes are no such message: grpc-go says so before anything of
		// ours hears of it.
		return strings.HasPrefix(text, "grpc: ") && strings.Contains(text, "unmarshal")
	}
	// The words that the kubelet looks for behind this code (cri/status.go).
	return slices.ContainsFunc([]string{"RegistryUnavailable", "SignatureValidationFailed", "RROUnsupported", "ImageVolumeMountFailed"},
		func(word string) bool { return strings.HasPrefix(text, word) })
}

// unchanged waits until the node is as it was: what was begun before a refusal
// is taken back beside the answer.
func (w *world) unchanged(m method, before string, refused error) {
	w.t.Helper()
	now := ""
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if now = w.state(); now == before {
			return
		}
	}
	w.t.Errorf("%s was refused (%v) and changed the node from\n%s\nto\n%s", m.full, refused, before, now)
}

// patience is how long the client waits: what waits for ever is cut off by it.
const patience = 300 * time.Millisecond

// send makes one call with the bytes of a request and reads the answer to its
// end.
func (w *world) send(m method, data []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if !m.IsStreamingServer() {
		return w.conn.Invoke(ctx, m.full, &data, new([]byte), grpc.ForceCodec(rawCodec{}))
	}
	stream, err := w.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, m.full, grpc.ForceCodec(rawCodec{}))
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&data); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		if err := stream.RecvMsg(new([]byte)); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// rawCodec sends bytes as they are: a codec of protobuf would refuse to send
// what is none.
type rawCodec struct{}

func (rawCodec) Name() string                  { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = slices.Clone(data)
	return nil
}

package cri

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/messages"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criapi "k8s.io/cri-api/pkg/errors"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestEachKindOfErrorHasItsCode(t *testing.T) {
	plain := errors.New("some failure")
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{plain, codes.Internal},
		{messages.Errorf(messages.Internal, "x"), codes.Internal},
		{messages.Errorf(messages.NotFound, "x"), codes.NotFound},
		{messages.Errorf(messages.Invalid, "x"), codes.InvalidArgument},
		{messages.Errorf(messages.Exists, "x"), codes.AlreadyExists},
		{messages.Errorf(messages.Precondition, "x"), codes.FailedPrecondition},
		{messages.Errorf(messages.Busy, "x"), codes.ResourceExhausted},
		{messages.Errorf(messages.Unavailable, "x"), codes.Unavailable},
		{messages.Errorf(messages.Unsupported, "x"), codes.Unimplemented},
		{messages.Errorf(messages.Deadline, "x"), codes.DeadlineExceeded},
		{messages.Errorf(messages.Canceled, "x"), codes.Canceled},
		{messages.Errorf(messages.NoSpace, "x"), codes.ResourceExhausted},
		{messages.Errorf(messages.Unauthorized, "x"), codes.Unauthenticated},
		{fmt.Errorf("step network: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		{fmt.Errorf("step network: %w", context.Canceled), codes.Canceled},
	} {
		g := newGateway(t)
		g.answer = func(context.Context, any) (any, error) { return nil, c.err }
		_, err := g.rpc.RunPodSandbox(within(t), runPodRequest())
		if got := status.Code(err); got != c.want {
			t.Errorf("%v: code %v, want %v", c.err, got, c.want)
		}
		if !strings.Contains(status.Convert(err).Message(), c.err.Error()) {
			t.Errorf("the text %q does not say %q", status.Convert(err).Message(), c.err)
		}
	}
}

func TestEveryKindHasACode(t *testing.T) {
	for kind := messages.Internal; kind <= messages.ImageVolumeMountFailed; kind++ {
		if _, ok := grpcCodes[kind]; !ok {
			t.Errorf("kind %d has no code", kind)
		}
	}
}

// The kubelet's client strips the code from Unknown errors only, and then
// looks at how the text begins.
func TestTheKubeletFindsItsWordsAtTheStart(t *testing.T) {
	g := newGateway(t)
	for kind, word := range map[messages.Kind]error{
		messages.RegistryUnavailable:       criapi.ErrRegistryUnavailable,
		messages.SignatureValidationFailed: criapi.ErrSignatureValidationFailed,
		messages.RROUnsupported:            criapi.ErrRROUnsupported,
		messages.ImageVolumeMountFailed:    criapi.ErrImageVolumeMountFailed,
	} {
		g.answer = func(context.Context, any) (any, error) {
			return nil, fmt.Errorf("step resolve: %w", messages.Errorf(kind, "no answer"))
		}
		_, err := g.img.PullImage(within(t), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: "example.com/a:1"}})
		if status.Code(err) != codes.Unknown || !strings.HasPrefix(status.Convert(err).Message(), word.Error()+": ") {
			t.Errorf("%v came as %v", word, err)
		}
	}
}

func TestAnUnclassifiedPullErrorIsUnknown(t *testing.T) {
	g := newGateway(t)
	g.answer = func(context.Context, any) (any, error) { return nil, errors.New("something odd") }
	_, err := g.img.PullImage(within(t), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: "example.com/a:1"}})
	if status.Code(err) != codes.Unknown {
		t.Errorf("got %v", err)
	}
}

func TestAHugeErrorStillArrives(t *testing.T) {
	g := newGateway(t)
	g.answer = func(context.Context, any) (any, error) {
		return nil, messages.Errorf(messages.NotFound, "bad bytes \xff%s", strings.Repeat("x", 17<<20))
	}
	_, err := g.rpc.RunPodSandbox(within(t), runPodRequest())
	if status.Code(err) != codes.NotFound || len(err.Error()) > 2*maxErrorText {
		t.Errorf("code %v, %d bytes", status.Code(err), len(err.Error()))
	}
}

func TestAWrongAnswerOfTheNodeIsABugNotACrash(t *testing.T) {
	g := newGateway(t)
	g.answer = func(context.Context, any) (any, error) { return 42, nil }
	if _, err := g.rpc.RunPodSandbox(within(t), runPodRequest()); status.Code(err) != codes.Internal {
		t.Errorf("got %v", err)
	}
}

func runPodRequest() *runtime.RunPodSandboxRequest {
	return &runtime.RunPodSandboxRequest{Config: &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: "web", Namespace: "shop", Uid: "u1"},
		Hostname:     "web",
		LogDirectory: "/var/log/pods/shop_web_u1",
	}}
}

func createRequest(pod string) *runtime.CreateContainerRequest {
	return &runtime.CreateContainerRequest{
		PodSandboxId:  pod,
		Config:        &runtime.ContainerConfig{Metadata: &runtime.ContainerMetadata{Name: "app"}, Image: &runtime.ImageSpec{Image: "busybox"}, LogPath: "app/0.log"},
		SandboxConfig: runPodRequest().Config,
	}
}

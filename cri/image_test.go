package cri

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/messages"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func maxReceive(bytes int) grpc.CallOption { return grpc.MaxCallRecvMsgSize(bytes) }

func spec(ref string) *runtime.ImageSpec { return &runtime.ImageSpec{Image: ref} }

func TestAnImageIsFoundByAllItsNames(t *testing.T) {
	g := newGateway(t)
	g.view.images = []messages.Image{sampleImage()}
	for _, ref := range []string{id("1a"), "sha256:" + id("1a"), "1a0", "docker.io/library/busybox:1", sampleImage().RepoDigests[0]} {
		got, err := g.img.ImageStatus(within(t), &runtime.ImageStatusRequest{Image: spec(ref), Verbose: true})
		if err != nil || got.Image.GetId() != id("1a") || got.Image.Size != 99 || len(got.Info) == 0 {
			t.Errorf("%q: %v, %v", ref, got, err)
		}
		list, err := g.img.ListImages(within(t), &runtime.ListImagesRequest{Filter: &runtime.ImageFilter{Image: spec(ref)}})
		if err != nil || len(list.Images) != 1 {
			t.Errorf("%q: listed %v, %v", ref, list, err)
		}
	}
	if g.count() != 0 {
		t.Error("the node was asked for what is published")
	}
	list, err := g.img.ListImages(within(t), &runtime.ListImagesRequest{Filter: &runtime.ImageFilter{Image: spec("nginx")}})
	if err != nil || len(list.Images) != 0 {
		t.Errorf("an unknown image is listed: %v, %v", list, err)
	}
}

func TestTheUserOfAnImageIsANumberOrAName(t *testing.T) {
	g := newGateway(t)
	for user, want := range map[string]struct {
		uid  *runtime.Int64Value
		name string
	}{
		"":        {},
		"1000":    {uid: &runtime.Int64Value{Value: 1000}},
		"0:0":     {uid: &runtime.Int64Value{Value: 0}},
		"www:www": {name: "www"},
	} {
		image := sampleImage()
		image.Config.User = user
		g.view.images = []messages.Image{image}
		got, err := g.img.ImageStatus(within(t), &runtime.ImageStatusRequest{Image: spec(id("1a"))})
		if err != nil {
			t.Fatal(err)
		}
		if got.Image.Username != want.name || (got.Image.Uid == nil) != (want.uid == nil) || got.Image.Uid.GetValue() != want.uid.GetValue() {
			t.Errorf("%q: uid %v, name %q", user, got.Image.Uid, got.Image.Username)
		}
	}
}

func TestAbsenceIsToldOnlyAfterTheStoreWasReadAgain(t *testing.T) {
	g := newGateway(t)
	got, err := g.img.ImageStatus(within(t), &runtime.ImageStatusRequest{Image: spec("busybox")})
	if err != nil || got.Image != nil {
		t.Errorf("got %v, %v", got, err)
	}
	if _, ok := g.last(t).(messages.RefreshImages); !ok || g.count() != 1 {
		t.Errorf("the node was asked %v", g.asked)
	}
	// Another tool brought it.
	g.answer = func(context.Context, any) (any, error) { g.view.addImage(sampleImage()); return messages.None{}, nil }
	if got, err := g.img.ImageStatus(within(t), &runtime.ImageStatusRequest{Image: spec("docker.io/library/busybox:1")}); err != nil || got.Image == nil {
		t.Errorf("got %v, %v", got, err)
	}
	g.answer = func(context.Context, any) (any, error) { return nil, messages.Errorf(messages.Unavailable, "locked") }
	if _, err := g.img.ImageStatus(within(t), &runtime.ImageStatusRequest{Image: spec("nginx")}); status.Code(err) != codes.Unavailable {
		t.Errorf("a store that cannot be read: %v", err)
	}
}

func TestAnImageMustBeNamed(t *testing.T) {
	g := newGateway(t)
	_, statusErr := g.img.ImageStatus(within(t), &runtime.ImageStatusRequest{})
	_, removeErr := g.img.RemoveImage(within(t), &runtime.RemoveImageRequest{Image: spec("")})
	_, pullErr := g.img.PullImage(within(t), &runtime.PullImageRequest{Image: spec("")})
	for _, err := range []error{statusErr, removeErr, pullErr} {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("got %v", err)
		}
	}
}

func TestRemovingAnImageIsIdempotentAndTakesPrefixes(t *testing.T) {
	g := newGateway(t)
	g.view.images = []messages.Image{sampleImage()}
	for ref, want := range map[string]string{
		"1a0":                         id("1a"),
		"sha256:" + id("1a"):          id("1a"),
		"docker.io/library/busybox:1": "docker.io/library/busybox:1",
		"nginx":                       "nginx",
	} {
		g.answer = func(context.Context, any) (any, error) {
			return nil, messages.Errorf(messages.NotFound, "no such image")
		}
		if _, err := g.img.RemoveImage(within(t), &runtime.RemoveImageRequest{Image: spec(ref)}); err != nil {
			t.Errorf("%q: %v", ref, err)
		}
		if got := g.last(t).(messages.RemoveImage).Ref; got != want {
			t.Errorf("%q: the node was asked for %q", ref, got)
		}
	}
	g.answer = func(context.Context, any) (any, error) { return nil, messages.Errorf(messages.Precondition, "in use") }
	if _, err := g.img.RemoveImage(within(t), &runtime.RemoveImageRequest{Image: spec("1a0")}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("an image in use: %v", err)
	}
}

func TestCredentialsAreReadInAllForms(t *testing.T) {
	encoded := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, c := range []struct {
		name string
		auth *runtime.AuthConfig
		want *messages.Auth
	}{
		{"none", nil, nil},
		{"empty", &runtime.AuthConfig{ServerAddress: "https://example.com"}, nil},
		{"user", &runtime.AuthConfig{Username: "ann", Password: "pw", ServerAddress: "x"}, &messages.Auth{Username: "ann", Password: "pw"}},
		{"auth", &runtime.AuthConfig{Auth: encoded("ann:p:w")}, &messages.Auth{Username: "ann", Password: "p:w"}},
		{"padded", &runtime.AuthConfig{Auth: encoded("ann:pw\x00\x00")}, &messages.Auth{Username: "ann", Password: "pw"}},
		{"user wins", &runtime.AuthConfig{Username: "ann", Password: "pw", Auth: "!"}, &messages.Auth{Username: "ann", Password: "pw"}},
		{"identity", &runtime.AuthConfig{IdentityToken: "i"}, &messages.Auth{IdentityToken: "i"}},
		{"registry", &runtime.AuthConfig{RegistryToken: "r"}, &messages.Auth{RegistryToken: "r"}},
	} {
		g := newGateway(t)
		got, err := g.img.PullImage(within(t), &runtime.PullImageRequest{Image: spec("busybox"), Auth: c.auth})
		if err != nil || got.ImageRef != strings.Repeat("e", 64) {
			t.Fatalf("%s: %v, %v", c.name, got, err)
		}
		auth := g.last(t).(messages.PullImage).Auth
		if (auth == nil) != (c.want == nil) || auth != nil && *auth != *c.want {
			t.Errorf("%s: wrong credentials", c.name)
		}
	}
}

func TestBrokenCredentialsAreRefusedAndNotRepeated(t *testing.T) {
	g := newGateway(t)
	for _, auth := range []string{"s3cret!", base64.StdEncoding.EncodeToString([]byte("s3cret")), base64.StdEncoding.EncodeToString([]byte(":s3cret"))} {
		_, err := g.img.PullImage(within(t), &runtime.PullImageRequest{Image: spec("busybox"), Auth: &runtime.AuthConfig{Auth: auth}})
		if status.Code(err) != codes.InvalidArgument || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), auth) {
			t.Errorf("got %v", err)
		}
	}
	if g.count() != 0 {
		t.Error("the node was asked")
	}
}

func TestAPullForAnUnknownHandlerIsRefused(t *testing.T) {
	g := newGateway(t)
	_, err := g.img.PullImage(within(t), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: "busybox", RuntimeHandler: "kata"}})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v", err)
	}
}

// crictl asks for it before each of its commands.
func TestWhoAsksForTheFileSystemsAMomentTooEarlyWaits(t *testing.T) {
	g := newGateway(t)
	time.AfterFunc(50*time.Millisecond, func() { g.view.measure(messages.Filesystem{Mountpoint: "/var/lib/containers"}) })
	if _, err := g.img.ImageFsInfo(within(t), &runtime.ImageFsInfoRequest{}); err != nil {
		t.Error(err)
	}
}

func TestTheFileSystemsOfImagesAndOfContainersAreTold(t *testing.T) {
	g := newGateway(t)
	if _, err := g.img.ImageFsInfo(within(t), &runtime.ImageFsInfoRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("before it was measured: %v", err)
	}
	g.view.fs = messages.Filesystem{Mountpoint: "/var/lib/containers", UsedBytes: 7, Inodes: 3, At: time.Unix(1, 2)}
	got, err := g.img.ImageFsInfo(within(t), &runtime.ImageFsInfoRequest{})
	if err != nil || len(got.ImageFilesystems) != 1 || len(got.ContainerFilesystems) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	fs := got.ImageFilesystems[0]
	if fs.FsId.Mountpoint != "/var/lib/containers" || fs.UsedBytes.Value != 7 || fs.InodesUsed.Value != 3 || fs.Timestamp != 1e9+2 {
		t.Errorf("got %v", fs)
	}
	twoPods(g)
	one, two := g.view.containers[0].ID, g.view.containers[1].ID
	g.meter.disks = map[string]messages.DiskUsage{
		one: {Bytes: messages.Measured(100), Inodes: messages.Measured(4)}, two: {Bytes: messages.Measured(50), Inodes: messages.Measured(1)},
	}
	got, err = g.img.ImageFsInfo(within(t), &runtime.ImageFsInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	fs = got.ContainerFilesystems[0]
	if fs.FsId.Mountpoint != "/var/lib/troupe" || fs.UsedBytes.Value != 150 || fs.InodesUsed.Value != 5 || fs.Timestamp == 0 {
		t.Errorf("got %v", fs)
	}
}

package cri

import (
	"testing"

	"github.com/troupe-run/troupe/messages"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// rpcs are all RPCs of cri-api, by full name.
func rpcs() map[string]protoreflect.MethodDescriptor {
	all := map[string]protoreflect.MethodDescriptor{}
	services := runtime.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			m := methods.Get(j)
			all["/"+string(services.Get(i).FullName())+"/"+string(m.Name())] = m
		}
	}
	return all
}

func TestEveryRPCOfCRIIsInTheTable(t *testing.T) {
	all := rpcs()
	if len(all) < 43 {
		t.Fatalf("only %d RPCs found; the descriptor is not read right", len(all))
	}
	for full := range all {
		if _, served := methods[full]; !served {
			t.Errorf("%s has no line in the table", full)
		}
	}
	if len(methods) != len(all) {
		t.Errorf("%d RPCs in our table, %d in cri-api", len(methods), len(all))
	}
}

// Called over the wire with an empty request.
func TestNoRPCAnswersUnimplemented(t *testing.T) {
	g := newGateway(t)
	close(g.events) // event streams end at once
	for full, m := range rpcs() {
		if err := callEmpty(t, g.conn, full, m); status.Code(err) == codes.Unimplemented {
			t.Errorf("%s: %v", full, err)
		}
	}
}

func callEmpty(t *testing.T, conn *grpc.ClientConn, full string, m protoreflect.MethodDescriptor) error {
	t.Helper()
	request, response := newMessage(t, m.Input()), newMessage(t, m.Output())
	if !m.IsStreamingServer() {
		return conn.Invoke(within(t), full, request, response)
	}
	stream, err := conn.NewStream(within(t), &grpc.StreamDesc{ServerStreams: true}, full)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(request); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	return stream.RecvMsg(response)
}

func newMessage(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return kind.New().Interface()
}

func TestAnRPCOfALaterCRIIsUnimplementedToo(t *testing.T) {
	if _, err := admit("/runtime.v1.RuntimeService/Dream"); messages.KindOf(err) != messages.Unsupported {
		t.Errorf("got %v", err)
	}
}

package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CRI is a client of a CRI socket, for what crictl does not show: gRPC codes,
// and calls it would not make.
type CRI struct {
	Runtime runtime.RuntimeServiceClient
	Image   runtime.ImageServiceClient
	Conn    *grpc.ClientConn
}

// Dial prepares a client; the first call connects.
func Dial(socket string) (*CRI, error) {
	// The socket is not there yet when a daemon is starting: try again soon.
	eager := grpc.ConnectParams{MinConnectTimeout: time.Second}
	eager.Backoff.BaseDelay, eager.Backoff.MaxDelay, eager.Backoff.Multiplier = 5*time.Millisecond, 50*time.Millisecond, 1.5
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(eager))
	if err != nil {
		return nil, fmt.Errorf("dialing %s: %w", socket, err)
	}
	return &CRI{runtime.NewRuntimeServiceClient(conn), runtime.NewImageServiceClient(conn), conn}, nil
}

// Close hangs up.
func (c *CRI) Close() { _ = c.Conn.Close() } // nothing is sent on it any more

// Pid is the container's init process, from the verbose status.
func (c *CRI) Pid(ctx context.Context, container string) (int, error) {
	r, err := c.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: container, Verbose: true})
	if err != nil {
		return 0, err
	}
	var info struct {
		Pid int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil || info.Pid == 0 {
		return 0, fmt.Errorf("the verbose status of %s names no pid (%v): %v", container, err, r.Info)
	}
	return info.Pid, nil
}

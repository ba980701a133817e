// Command workload is what the tests' containers run where busybox cannot: a
// gRPC health service for probes, and memory to be used up.
package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	if len(os.Args) != 3 {
		fail("usage: workload grpc-health PORT | memory MIB")
	}
	switch os.Args[1] {
	case "grpc-health":
		serve(os.Args[2])
	case "memory":
		use(os.Args[2])
	default:
		fail("no such work: " + os.Args[1])
	}
}

// serve answers health checks; the service "" serves as long as no file
// /tmp/sick exists.
func serve(port string) {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		fail(err.Error())
	}
	states := health.NewServer()
	go func() {
		for {
			state := grpc_health_v1.HealthCheckResponse_SERVING
			if _, err := os.Stat("/tmp/sick"); err == nil {
				state = grpc_health_v1.HealthCheckResponse_NOT_SERVING
			}
			states.SetServingStatus("", state)
			time.Sleep(50 * time.Millisecond)
		}
	}()
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, states)
	fail(s.Serve(l).Error())
}

// use takes memory, touches it, and keeps it.
func use(mib string) {
	n, err := strconv.Atoi(mib)
	if err != nil {
		fail(err.Error())
	}
	kept := make([][]byte, n)
	for i := range kept {
		kept[i] = make([]byte, 1<<20)
		for j := 0; j < len(kept[i]); j += 4096 {
			kept[i][j] = 1
		}
	}
	fmt.Println("have", n, "MiB")
	time.Sleep(24 * time.Hour)
	fmt.Println(len(kept))
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}

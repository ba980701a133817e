package e2e

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestAHostPortNeedsNoPortmapAndOutlivesTheDaemon(t *testing.T) {
	n := ownNode(t, func(o *harness.DaemonOptions) {
		o.Network.NoPortmap, o.Network.Subnet = true, "10.124.0.0/16" // the shared node has a bridge too
		ok(t, o.Network.Configure())
	})
	n.leavesNothing(t)
	mapped := func(c *runtime.PodSandboxConfig) {
		c.PortMappings = []*runtime.PortMapping{{Protocol: runtime.Protocol_TCP, ContainerPort: 80, HostPort: 18080}}
	}
	p := n.pod(t, mapped)
	p.start(t, "mkdir -p /tmp/www && echo mapped > /tmp/www/index.html && exec httpd -f -p 80 -h /tmp/www")
	everywhere := func(what string) {
		t.Helper()
		for _, host := range []string{"127.0.0.1", "10.124.0.1"} {
			eventually(t, what+": port 18080 of "+host+" answers", func() bool { return get(host+":18080") == "mapped\n" })
		}
	}
	everywhere("at first")
	ok(t, n.daemon.Kill())
	everywhere("without a daemon")
	ok(t, n.daemon.Start(t.Context()))
	everywhere("with the next daemon")
	refused(t, n.runPod(t, "", n.podConfig(t, mapped)), code(codes.FailedPrecondition), "18080", p.id)

	n.run(t, "stopp", p.id)
	equal(t, "what the port of a stopped pod says", get("10.124.0.1:18080"), "")
	n.pod(t, mapped) // it is free
}

// get is what an HTTP server says, empty when there is none.
func get(address string) string {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("http://%s/", address))
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body) // an answer cut off is not the one that is wanted
	return string(text)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"github.com/spf13/cobra"
	"github.com/troupe-run/troupe/cmd/troupe/config"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// patience is how long a question to the daemon may take.
const patience = 10 * time.Second

// maxAnswer is the largest answer taken, in bytes: lists of a full node.
const maxAnswer = 80 << 20

// target is the socket a command talks to: the one named by --socket, else the
// configured one.
type target struct {
	socket string
	what   string // for errors: "status"
	option string // where the configuration names it
	of     func(*config.Config) string
}

func criTarget(what string) *target {
	return &target{what: what, option: "crio.api.listen", of: func(c *config.Config) string { return c.API.Listen }}
}

func debugTarget(what string) *target {
	return &target{what: what, option: "troupe.debug_listen", of: func(c *config.Config) string { return c.Troupe.DebugListen }}
}

func (t *target) flag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.socket, "socket", "", "path of the daemon's socket (default "+t.option+" of the configuration)")
}

// with calls do with a connection to the daemon, for as long as a question may
// take.
func (t *target) with(ctx context.Context, src config.Source, do func(context.Context, *grpc.ClientConn) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return t.endlessly(ctx, src, do)
}

// endlessly is with for what takes as long as it takes.
func (t *target) endlessly(ctx context.Context, src config.Source, do func(context.Context, *grpc.ClientConn) error) error {
	path, err := t.path(src)
	if err != nil {
		return err
	}
	if err := reachable(path); err != nil {
		return fmt.Errorf("%s: %w", t.what, err)
	}
	conn, err := dial(path)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", t.what, path, err)
	}
	defer func() { _ = conn.Close() }()
	if err := do(ctx, conn); err != nil {
		return fmt.Errorf("%s: %s: %s", t.what, path, status.Convert(err).Message())
	}
	return nil
}

func (t *target) path(src config.Source) (string, error) {
	if t.socket != "" {
		return config.SocketPath(t.socket), nil
	}
	loaded, err := config.Load(src)
	if err != nil {
		return "", err
	}
	path := config.SocketPath(t.of(loaded.Config))
	if path == config.None {
		return "", fmt.Errorf("%s: %s is %q: the daemon does not answer this; give it a socket there and restart it",
			t.what, t.option, config.None)
	}
	return path, nil
}

func dial(path string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix:"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
}

// reachable says in words why nobody answers on a socket.
func reachable(path string) error {
	conn, err := net.DialTimeout("unix", path, patience)
	switch {
	case err == nil:
		return conn.Close()
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the daemon does not run: there is no %s; start it with `systemctl start troupe` or `troupe daemon`", path)
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("the daemon does not run: nobody listens on %s any more; start it with `systemctl start troupe` or `troupe daemon`", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s is root's; run this as root", path)
	}
	return fmt.Errorf("connect to %s: %w", path, err)
}

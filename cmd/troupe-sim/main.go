// Command troupe-sim drives container runtimes: the simulated node (run), and
// real ones through their CRI socket (load), so that Troupe and its peers are
// measured by the same tool.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

var version = "unknown" // set by the Makefile

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "troupe-sim:", err)
		stop()
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use: "troupe-sim", Short: "Drive container runtimes: simulated and real",
		Version: version, SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(loadCommand(), runCommand(), seedsCommand())
	return root
}

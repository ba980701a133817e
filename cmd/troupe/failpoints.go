package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/troupe-run/troupe/backends/failpoint"
)

// failpointsCommand lists where this program's death can be rehearsed. It is for
// tests: a usual build has none.
func failpointsCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "failpoints",
		Short:  "List the crash points of a build with -tags failpoints",
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !failpoint.On {
				return errors.New("this build has no failpoints: build it with -tags failpoints")
			}
			for _, name := range failpoint.Names() {
				fmt.Fprintln(cmd.OutOrStdout(), name)
			}
			return nil
		},
	}
}

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/troupe-run/troupe/cmd/troupe/config"
)

func configCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the defaults as a configuration file; see and check what is configured",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return config.Print(cmd.OutOrStdout(), config.Defaults())
		},
	}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "show",
			Short: "Print what holds on this node: the files, with the defaults as comments",
			RunE: func(cmd *cobra.Command, _ []string) error {
				loaded, err := config.Load(o.source)
				if err != nil {
					return err
				}
				return config.Print(cmd.OutOrStdout(), loaded.Config)
			},
		},
		&cobra.Command{
			Use:   "check",
			Short: "Check the files; name every option that has no effect (exit status 78 if they cannot be used)",
			RunE:  func(cmd *cobra.Command, _ []string) error { return checkConfig(cmd, o.source) },
		},
		&cobra.Command{
			Use:   "docs",
			Short: "Print a table of all options as Markdown",
			RunE:  func(cmd *cobra.Command, _ []string) error { return config.Docs(cmd.OutOrStdout()) },
		},
	)
	return cmd
}

func checkConfig(cmd *cobra.Command, src config.Source) error {
	loaded, err := config.Load(src)
	if err != nil {
		return err
	}
	read := strings.Join(loaded.Files, ", ")
	if read == "" {
		read = "no file, all defaults"
	}
	w := cmd.OutOrStdout()
	for _, f := range loaded.Findings {
		if _, err := fmt.Fprintln(w, f); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(w, "usable: %s; options without effect: %d\n", read, len(loaded.Findings))
	return err
}

package main

import (
	"fmt"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// line is the Kubernetes minor this source goes with (design.md §1); what is
// built between releases is a development version of it.
const line = "1.37.0"

// version is set by the linker (Makefile): a tag, or what git describes.
var version = "unknown"

var semantic = regexp.MustCompile(`^v?([0-9]+\.[0-9]+\.[0-9]+.*)$`)

// semver makes a version the kubelet can parse (it shows "Unknown" for a node
// whose runtime has another, kubelet's nodestatus.VersionInfo).
func semver(version string) string {
	if m := semantic.FindStringSubmatch(version); m != nil {
		return m[1]
	}
	return line + "-dev+" + strings.ReplaceAll(version, "-", ".")
}

// build is which program this is.
type build struct {
	Version   string `json:"version"`
	Commit    string `json:"commit,omitempty"`
	Date      string `json:"date,omitempty"` // of the commit
	Modified  bool   `json:"modified,omitempty"`
	GoVersion string `json:"goVersion"`
	Platform  string `json:"platform"`
	CRI       string `json:"criAPI"` // module version of cri-api
}

func buildOf() build {
	b := build{Version: semver(version), GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Date = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	for _, dep := range info.Deps {
		if dep.Path == "k8s.io/cri-api" {
			b.CRI = dep.Version
		}
	}
	return b
}

func versionCommand() *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := buildOf()
			return out.print(cmd, b, func(t *table) {
				t.row("troupe", b.Version)
				t.row("commit", b.Commit+map[bool]string{true: " (modified)"}[b.Modified])
				t.row("date", b.Date)
				t.row("go", b.GoVersion)
				t.row("platform", b.Platform)
				t.row("cri-api", b.CRI)
			})
		},
	}
	out.flag(cmd)
	return cmd
}

// String is for the log.
func (b build) String() string { return fmt.Sprintf("%s (%s, %s)", b.Version, b.GoVersion, b.Platform) }

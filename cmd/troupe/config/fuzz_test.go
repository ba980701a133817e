package config

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzFiles loads strangers' bytes as the main file and as a drop-in: there is a
// configuration, whose values the daemon's parts can ask for, or an error.
func FuzzFiles(f *testing.F) {
	for _, text := range []string{
		"", "[crio]\nroot = \"/x\"\n", "[crio.runtime]\ndefault_runtime = \"crun\"\npids_limit = -1\n[crio.runtime.runtimes.crun]\nruntime_path = \"/usr/bin/crun\"\n",
		"[crio.api]\nlisten = \"unix:///x\"\nstream_port = \"99999\"\n", "[troupe]\nroot = \"/a\"\nrun = \"/b\"\n[troupe.lanes]\nstart = -3\n",
		"[crio.image]\npinned_images = [\"*\"]\npull_progress_timeout = \"1h\"\n", "[crio.runtime]\ndefault_ulimits = [\"nofile=1:2\", \"x\"]\nadditional_devices = [\"/dev/x:/dev/y:rwm\"]\n",
		"[crio.stats]\ncollection_period = 1e99\n", "x = [[[[[[[[1]]]]]]]]", "[crio]\n[crio]\n", "\xff\xfe", "[crio.runtime]\nworkloads = {}\n",
	} {
		f.Add([]byte(text), []byte("[crio.runtime]\nlog_level = \"debug\"\n"))
		f.Add([]byte("[crio.network]\n"), []byte(text))
	}
	dir := f.TempDir()
	drop := filepath.Join(dir, "d")
	if err := os.Mkdir(drop, 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, main, more []byte) {
		file := filepath.Join(dir, "troupe.conf")
		for path, text := range map[string][]byte{file: main, filepath.Join(drop, "50-more.conf"): more} {
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		loaded, err := Load(Source{File: file, Dir: drop})
		if err != nil {
			if loaded != nil {
				t.Error("an error, and a configuration")
			}
			return
		}
		c := loaded.Config
		_, _, _, _ = c.UseCgroupManager(), c.UseCgroupParent(), c.UsePluginDirs(), c.UseCollectionPeriod()
		_, _ = c.UseNRISocket(), SocketPath(c.API.Listen)
	})
}

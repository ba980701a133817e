package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/containernetworking/cni/libcni"
	"github.com/troupe-run/troupe/messages"
)

// network is the network pods are attached to, and the file that says so.
type network struct {
	list *libcni.NetworkConfigList // immutable; its Bytes hold every plugin
	file string
}

// source is the configuration in a directory. It is read again whenever a file
// there has changed, so that no restart and no event is ever needed.
type source struct {
	dir    string
	wanted string // name of a network; empty: the first
	log    *slog.Logger

	mu    sync.Mutex
	print string // of the files that current and err are from
	known *network
	err   error
}

// network is the one in use now. Its absence is of kind Unavailable.
func (s *source) network() (*network, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if print := "read " + fingerprint(s.dir); print != s.print {
		before := s.known
		s.known, s.err = s.read()
		s.print = print
		if s.known != nil && (before == nil || before.file != s.known.file || string(before.list.Bytes) != string(s.known.list.Bytes)) {
			s.log.Info("CNI configuration in use", "network", s.known.list.Name, "file", s.known.file)
		}
	}
	return s.known, s.err
}

// read takes the first file that holds a usable network (of the wanted name).
// A broken file must not hide a good one after it.
func (s *source) read() (*network, error) {
	files, err := libcni.ConfFiles(s.dir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, messages.Errorf(messages.Unavailable, "read CNI configuration in %s: %w", s.dir, err)
	}
	slices.Sort(files)
	var broken []error
	for _, file := range files {
		n, err := readFile(file)
		if err != nil {
			s.log.Warn("CNI configuration file is not usable", "file", file, "error", err)
			broken = append(broken, fmt.Errorf("%s: %w", file, err))
			continue
		}
		if s.wanted == "" || n.list.Name == s.wanted {
			return n, nil
		}
	}
	what := "no CNI configuration in " + s.dir
	if s.wanted != "" {
		what = fmt.Sprintf("no CNI configuration named %q in %s", s.wanted, s.dir)
	}
	if len(broken) > 0 {
		return nil, messages.Errorf(messages.Unavailable, "%s that can be used: %w", what, errors.Join(broken...))
	}
	return nil, messages.Errorf(messages.Unavailable, "%s: has the network add-on been installed?", what)
}

func readFile(file string) (*network, error) {
	var list *libcni.NetworkConfigList
	var err error
	if strings.HasSuffix(file, ".conflist") {
		list, err = libcni.NetworkConfFromFile(file)
	} else {
		list, err = readSingle(file)
	}
	if err != nil {
		return nil, err
	}
	if list.Bytes, err = inline(list); err != nil {
		return nil, err
	}
	return &network{list: list, file: file}, nil
}

// readSingle reads the old form, one plugin without a list, which node images
// still carry.
func readSingle(file string) (*libcni.NetworkConfigList, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	plugin, err := libcni.NetworkPluginConfFromBytes(content)
	if err != nil {
		return nil, err
	}
	//lint:ignore SA1019 nodes still carry files with one plugin; the form has no other reader
	return libcni.ConfListFromConf(plugin)
}

// inline gives the list with every plugin in it, also those that stand in files
// of their own (loadOnlyInlinedPlugins): DEL must not depend on them.
func inline(list *libcni.NetworkConfigList) ([]byte, error) {
	var whole map[string]json.RawMessage
	if err := json.Unmarshal(list.Bytes, &whole); err != nil {
		return nil, err
	}
	var plugins []json.RawMessage
	for _, p := range list.Plugins {
		plugins = append(plugins, p.Bytes)
	}
	all, err := json.Marshal(plugins)
	if err != nil {
		return nil, err
	}
	whole["plugins"], whole["loadOnlyInlinedPlugins"] = all, json.RawMessage("true")
	return json.Marshal(whole)
}

// fingerprint changes when a file in one of the directories, or in one
// directly below (plugins of a network), does.
func fingerprint(dirs ...string) string {
	var print strings.Builder
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(&print, "%s: %v\n", dir, err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			printFile(&print, path)
			if inner, err := os.ReadDir(path); e.IsDir() && err == nil {
				for _, e := range inner {
					printFile(&print, filepath.Join(path, e.Name()))
				}
			}
		}
	}
	return print.String()
}

func printFile(print *strings.Builder, path string) {
	info, err := os.Stat(path) // follows links: add-ons link to what they update
	if err != nil {
		fmt.Fprintf(print, "%s: %v\n", path, err)
		return
	}
	var inode uint64
	var changed syscall.Timespec
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode, changed = st.Ino, st.Ctim
	}
	fmt.Fprintln(print, path, info.Size(), info.ModTime().UnixNano(), inode, changed.Nano())
}

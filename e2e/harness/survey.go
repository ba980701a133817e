package harness

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// Survey is everything a container runtime could leave behind on a node, by
// kind: process, mount, netns, link, rule, cgroup, address, file.
type Survey map[string][]string

// Surveyor knows where to look. All fields may be empty.
type Surveyor struct {
	Cgroups   string   // cgroups with this in their path
	Addresses string   // data directory of the host-local plugin
	Bridge    string   // link that its plugin keeps on purpose
	Files     []string // directories that are listed whole
	Daemon    string   // processes with this in their command line are not counted
}

// Kinds are the kinds in the order people like to read them.
var Kinds = []string{"process", "mount", "netns", "link", "rule", "cgroup", "address", "file"}

// Take looks at the node.
func (v Surveyor) Take() (Survey, error) {
	s := Survey{}
	looks := map[string]func() ([]string, error){
		"process": func() ([]string, error) { return processes(v.Daemon) },
		"mount":   mountpoints,
		"netns":   netNamespaces,
		"link":    func() ([]string, error) { return links(v.Bridge) },
		"rule":    rules,
		"cgroup":  func() ([]string, error) { return cgroupsOf(v.Cgroups) },
		"address": func() ([]string, error) { return addresses(v.Addresses) },
		"file":    func() ([]string, error) { return files(v.Files) },
	}
	for kind, look := range looks {
		found, err := look()
		if err != nil {
			return nil, fmt.Errorf("looking for each %s: %w", kind, err)
		}
		s[kind] = found
	}
	return s, nil
}

// Left waits until the node holds nothing that was not there before, and gives
// what is still there when patience is over: one line each, kind first.
func (v Surveyor) Left(before Survey, patience time.Duration) ([]string, error) {
	end := time.Now().Add(patience)
	for {
		now, err := v.Take()
		if err != nil {
			return nil, err
		}
		left := before.News(now)
		if len(left) == 0 || time.Now().After(end) {
			return left, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// News is what is in after and not in s.
func (s Survey) News(after Survey) []string {
	var out []string
	for _, kind := range Kinds {
		seen := map[string]int{}
		for _, item := range s[kind] {
			seen[item]++
		}
		for _, item := range after[kind] {
			if seen[item]--; seen[item] < 0 {
				out = append(out, kind+" "+item)
			}
		}
	}
	return out
}

func processes(daemon string) ([]string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	self := os.Getpid()
	var out []string
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil || pid == self {
			continue // ended meanwhile
		}
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		name := strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
		if name == "" { // a zombie or the kernel's own: the name in parentheses
			_, rest, _ := strings.Cut(string(stat), "(")
			name, _, _ = strings.Cut(rest, ")")
			if strings.Contains(string(stat), ") Z ") {
				name += " (zombie)"
			}
		}
		if strings.Contains(string(stat), " (troupe-monitor) ") { // another one after its death is no other thing
			out = append(out, "monitor: "+name)
			continue
		}
		if daemon == "" || !strings.Contains(name, daemon) {
			out = append(out, fmt.Sprintf("%d: %s", pid, name))
		}
	}
	return out, nil
}

func mountpoints() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 {
			out = append(out, fields[4])
		}
	}
	return out, nil
}

// netNamespaces are those that a process is in or a mount keeps alive.
func netNamespaces() ([]string, error) {
	found := map[string]bool{}
	paths, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	for _, p := range paths {
		if ns, err := os.Readlink(p); err == nil {
			found[ns] = true
		}
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for _, line := range strings.Split(string(info), "\n") {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[3], "net:[") {
			found[fields[3]] = true
		}
	}
	return keys(found), nil
}

func links(keep string) ([]string, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, l := range all {
		if l.Attrs().Name != keep {
			out = append(out, l.Attrs().Name)
		}
	}
	return out, nil
}

// rules are the iptables rules of both families, without the two chains that
// the portmap plugin sets up once for all pods and never removes, and the
// tables of nftables that no iptables shows.
func rules() ([]string, error) {
	var out []string
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		text, err := exec.Command(save).Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", save, err)
		}
		for _, line := range strings.Split(string(text), "\n") {
			if strings.HasPrefix(line, "-A ") && !portmapOwn(line) {
				out = append(out, line)
			}
		}
	}
	tables, err := exec.Command("nft", "list", "tables").Output()
	if err != nil {
		return nil, fmt.Errorf("nft list tables: %w", err)
	}
	for _, line := range strings.Split(string(tables), "\n") {
		if strings.HasPrefix(line, "table inet ") { // iptables has none of that family
			out = append(out, line)
		}
	}
	return out, nil
}

func portmapOwn(rule string) bool {
	for _, own := range []string{
		"-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
		"-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
		"-A POSTROUTING -m comment --comment \"CNI portfwd requiring masquerade\" -j CNI-HOSTPORT-MASQ",
		"-A CNI-HOSTPORT-MASQ -m mark", "-A CNI-HOSTPORT-SETMARK -m comment",
	} {
		if strings.HasPrefix(rule, own) {
			return true
		}
	}
	return false
}

// cgroupsOf are the cgroups of every hierarchy with name in their path.
func cgroupsOf(name string) ([]string, error) {
	if name == "" {
		return nil, nil
	}
	var out []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed by somebody else meanwhile
		}
		if err == nil && d.IsDir() && strings.Contains(p, name) {
			out = append(out, p)
		}
		return err
	})
	return out, err
}

// addresses are what the host-local plugin has handed out.
func addresses(dir string) ([]string, error) {
	all, err := files([]string{dir})
	return slices.DeleteFunc(all, func(p string) bool { return net.ParseIP(filepath.Base(p)) == nil }), err
}

func files(dirs []string) ([]string, error) {
	var out []string
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && p != dir {
				out = append(out, p)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func keys(m map[string]bool) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

package files

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"unicode"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const nodeResolvConf = "/etc/resolv.conf"

// resolvConf is the file for the pod (resolv.conf(5)). Nothing asked for means
// the node's own, as it is now; a node without one gives an empty file.
func (b *Backend) resolvConf(dns *runtime.DNSConfig) ([]byte, error) {
	if len(dns.GetServers())+len(dns.GetSearches())+len(dns.GetOptions()) == 0 {
		content, err := os.ReadFile(nodeResolvConf)
		if errors.Is(err, fs.ErrNotExist) {
			b.log.Warn("the node has no resolv.conf, the pod gets an empty one", "file", nodeResolvConf)
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("copy the node's resolv.conf: %w", err)
		}
		return content, nil
	}
	var text strings.Builder
	for _, server := range dns.GetServers() {
		if _, err := netip.ParseAddr(server); err != nil {
			return nil, messages.Errorf(messages.Invalid, "DNS server %q: not an IP address", server)
		}
		fmt.Fprintf(&text, "nameserver %s\n", server)
	}
	for keyword, words := range map[string][]string{"search": dns.GetSearches(), "options": dns.GetOptions()} {
		if err := checkWords(keyword, words); err != nil {
			return nil, err
		}
	}
	if len(dns.GetSearches()) > 0 {
		fmt.Fprintf(&text, "search %s\n", strings.Join(dns.GetSearches(), " "))
	}
	if len(dns.GetOptions()) > 0 {
		fmt.Fprintf(&text, "options %s\n", strings.Join(dns.GetOptions(), " "))
	}
	return []byte(text.String()), nil
}

// checkWords refuses what would not stay one word on one line: a line break in
// a search domain would add lines of the pod author's choice.
func checkWords(keyword string, words []string) error {
	for _, w := range words {
		if w == "" || strings.ContainsFunc(w, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
			return messages.Errorf(messages.Invalid, "DNS %s %q: must be one word", keyword, w)
		}
	}
	return nil
}

// hostnameFile is the content of /etc/hostname; a pod in the node's UTS
// namespace, which has no name of its own, gets the node's.
func hostnameFile(hostname string) ([]byte, error) {
	if hostname == "" {
		node, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("read the node's hostname: %w", err)
		}
		hostname = node
	}
	if strings.ContainsFunc(hostname, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '/' }) {
		return nil, messages.Errorf(messages.Invalid, "hostname %q: must be one word without a slash", hostname)
	}
	return []byte(hostname + "\n"), nil
}

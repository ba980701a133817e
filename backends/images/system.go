package images

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

const systemPolicy = "/etc/containers/policy.json" // containers-policy.json(5)

// configure checks the configuration and turns it into the library's.
func (s *Store) configure() error {
	c := s.cfg
	s.system = types.SystemContext{
		SystemRegistriesConfPath: c.RegistriesConf, SystemRegistriesConfDirPath: c.RegistriesConfDir,
		RegistriesDirPath: c.RegistriesDir, AuthFilePath: c.AuthFile,
		DockerPerHostCertDirPath: c.CertsDir, BigFilesTemporaryDir: c.BigFilesTemporaryDir,
		DockerRegistryUserAgent: "troupe",
	}
	mode := map[string]types.ShortNameMode{
		"enforcing": types.ShortNameModeEnforcing, "permissive": types.ShortNameModePermissive,
		"disabled": types.ShortNameModeDisabled,
	}
	if c.ShortNameMode != "" {
		m, ok := mode[c.ShortNameMode]
		if !ok {
			return messages.Errorf(messages.Invalid, "short_name_mode %q: must be enforcing, permissive or disabled", c.ShortNameMode)
		}
		s.system.ShortNameMode = &m
	}
	policy, err := s.policy()
	if err == nil && policy == acceptAll {
		s.log.Info("no signature policy: images of any origin are accepted", "looked", systemPolicy)
	}
	return err
}

var acceptAll = &signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}}

// policy reads the signature policy anew, so that an edit counts for the next
// pull. A node without one accepts everything, as CRI-O and podman are
// packaged; New says so once.
func (s *Store) policy() (*signature.Policy, error) {
	path := s.cfg.PolicyPath
	if path == "" {
		if _, err := os.Stat(systemPolicy); errors.Is(err, fs.ErrNotExist) {
			return acceptAll, nil
		}
		path = systemPolicy
	}
	p, err := signature.NewPolicyFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("signature policy %s: %w", path, err)
	}
	return p, nil
}

// systemFor is the library's configuration for one caller and one registry.
func (s *Store) systemFor(auth *messages.Auth, host string) *types.SystemContext {
	sys := s.system
	if auth != nil {
		if auth.Username != "" || auth.Password != "" || auth.IdentityToken != "" {
			sys.DockerAuthConfig = &types.DockerAuthConfig{
				Username: auth.Username, Password: auth.Password, IdentityToken: auth.IdentityToken,
			}
		}
		sys.DockerBearerRegistryToken = auth.RegistryToken
	}
	// For others registries.conf decides (insecure = true).
	if s.insecure(host) {
		sys.DockerInsecureSkipTLSVerify = types.OptionalBoolTrue
	}
	return &sys
}

func (s *Store) insecure(host string) bool {
	address := netip.Addr{}
	if ap, err := netip.ParseAddrPort(host); err == nil {
		address = ap.Addr()
	} else if a, err := netip.ParseAddr(host); err == nil {
		address = a
	}
	for _, entry := range s.cfg.InsecureRegistries {
		if entry == host {
			return true
		}
		if prefix, err := netip.ParsePrefix(entry); err == nil && address.IsValid() && prefix.Contains(address) {
			return true
		}
	}
	return false
}

package images

import (
	"fmt"
	"net/netip"

	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/types"
)

// rules are how registries are met and images judged. Reload replaces them as
// a whole; where the store is on disk never changes.
type rules struct {
	Config
	system types.SystemContext // copied for each request
}

// rulesOf checks the configuration and turns it into the library's.
func rulesOf(c Config) (*rules, error) {
	r := &rules{Config: c, system: types.SystemContext{
		SystemRegistriesConfPath: c.RegistriesConf, SystemRegistriesConfDirPath: c.RegistriesConfDir,
		RegistriesDirPath: c.RegistriesDir, AuthFilePath: c.AuthFile,
		DockerPerHostCertDirPath: c.CertsDir, BigFilesTemporaryDir: c.BigFilesTemporaryDir,
		DockerRegistryUserAgent: "troupe",
	}}
	mode := map[string]types.ShortNameMode{
		"enforcing": types.ShortNameModeEnforcing, "permissive": types.ShortNameModePermissive,
		"disabled": types.ShortNameModeDisabled,
	}
	if c.ShortNameMode != "" {
		m, ok := mode[c.ShortNameMode]
		if !ok {
			return nil, messages.Errorf(messages.Invalid, "short_name_mode %q: must be enforcing, permissive or disabled", c.ShortNameMode)
		}
		r.system.ShortNameMode = &m
	}
	policy, err := r.policy("")
	if err == nil && policy == acceptAll {
		c.Log.Info("no signature policy: images of any origin are accepted", "looked", systemPolicy)
	}
	return r, err
}

// Reload makes pulls from now on follow another configuration, and
// registries.conf as it now is. Where images are kept stays as it was. An
// error leaves the old configuration in force.
func (s *Store) Reload(c Config) error {
	c.Log = s.log
	sysregistriesv2.InvalidateCache()
	r, err := rulesOf(c)
	if err != nil {
		return fmt.Errorf("images: what held before still holds: %w", err)
	}
	s.rules.Store(r)
	return nil
}

// systemFor is the library's configuration for one caller and one name.
func (r *rules) systemFor(auth *messages.Auth, named reference.Named) *types.SystemContext {
	sys := r.system
	if auth != nil {
		// Also when there is only a registry token: the library keeps that from
		// mirrors only beside credentials, which may be empty.
		sys.DockerAuthConfig = &types.DockerAuthConfig{
			Username: auth.Username, Password: auth.Password, IdentityToken: auth.IdentityToken,
		}
		sys.DockerBearerRegistryToken = auth.RegistryToken
	}
	if r.insecure(reference.Domain(named)) && len(r.places(named)) < 2 {
		// With mirrors, this would hold for them too; there registries.conf
		// decides for each (insecure = true).
		sys.DockerInsecureSkipTLSVerify = types.OptionalBoolTrue
	}
	return &sys
}

func (r *rules) insecure(host string) bool {
	address := netip.Addr{}
	if ap, err := netip.ParseAddrPort(host); err == nil {
		address = ap.Addr()
	} else if a, err := netip.ParseAddr(host); err == nil {
		address = a
	}
	for _, entry := range r.InsecureRegistries {
		if entry == host {
			return true
		}
		if prefix, err := netip.ParsePrefix(entry); err == nil && address.IsValid() && prefix.Contains(address) {
			return true
		}
	}
	return false
}

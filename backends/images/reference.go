package images

import (
	"errors"
	"strings"

	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/types"
)

// candidates are the full names a reference may mean, in the order in which
// they are tried. A bare name ("busybox") goes by the aliases and the search
// registries of registries.conf; where that names none it is Docker Hub's, as
// the kubelet and every peer read it.
//
// The library's own shortnames.Resolve asks a person when it finds a terminal;
// a daemon must never do that, so this reads the same configuration itself.
func (r *rules) candidates(ref string) ([]reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, invalidReference(ref, err)
	}
	if !isShort(ref, named) {
		return []reference.Named{complete(named)}, nil
	}
	typed := strings.TrimSuffix(ref, strings.TrimPrefix(reference.FamiliarString(named), reference.FamiliarName(named)))
	alias, _, err := sysregistriesv2.ResolveShortNameAlias(&r.system, typed)
	if err != nil {
		return nil, invalidReference(ref, err)
	}
	if alias != nil {
		return withVersionOf(alias, named, ref)
	}
	search, err := sysregistriesv2.UnqualifiedSearchRegistries(&r.system)
	if err != nil {
		return nil, messages.Errorf(messages.Internal, "registries.conf: %w", err)
	}
	return r.searched(search, ref, named)
}

// searched puts each search registry before the name. Which one is meant is a
// guess when there are several, which "enforcing" forbids.
func (r *rules) searched(search []string, ref string, hub reference.Named) ([]reference.Named, error) {
	if len(search) == 0 {
		return []reference.Named{complete(hub)}, nil
	}
	mode, err := sysregistriesv2.GetShortNameMode(&r.system)
	if err != nil {
		return nil, messages.Errorf(messages.Internal, "registries.conf: %w", err)
	}
	if len(search) > 1 && mode == types.ShortNameModeEnforcing {
		return nil, invalidReference(ref, errors.New("it may be of any of "+strings.Join(search, ", ")+
			"; write the name with its registry, or set short_name_mode to permissive"))
	}
	names := make([]reference.Named, 0, len(search))
	for _, registry := range search {
		named, err := reference.ParseNormalizedNamed(registry + "/" + ref)
		if err != nil {
			return nil, invalidReference(ref, err)
		}
		names = append(names, complete(named))
	}
	return names, nil
}

// isShort says whether the name was written without a registry.
func isShort(ref string, named reference.Named) bool {
	if reference.Domain(named) != "docker.io" {
		return false
	}
	first, _, _ := strings.Cut(ref, "/")
	return first != "docker.io" && first != "index.docker.io"
}

// withVersionOf gives an alias the tag or digest that was written.
func withVersionOf(alias, written reference.Named, ref string) ([]reference.Named, error) {
	var err error
	if digested, ok := written.(reference.Digested); ok {
		alias, err = reference.WithDigest(reference.TrimNamed(alias), digested.Digest())
	} else if tagged, ok := written.(reference.Tagged); ok {
		alias, err = reference.WithTag(reference.TrimNamed(alias), tagged.Tag())
	}
	if err != nil {
		return nil, invalidReference(ref, err)
	}
	return []reference.Named{complete(alias)}, nil
}

func invalidReference(ref string, err error) error {
	return messages.Errorf(messages.Invalid, "image name %q: %w", ref, err)
}

// complete adds ":latest" where neither tag nor digest is given, and leaves
// out the tag where both are: the digest alone says which image.
func complete(named reference.Named) reference.Named {
	if digested, ok := named.(reference.Digested); ok {
		if exact, err := reference.WithDigest(reference.TrimNamed(named), digested.Digest()); err == nil {
			return exact
		}
	}
	return reference.TagNameOnly(named)
}

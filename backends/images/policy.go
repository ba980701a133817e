package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

const systemPolicy = "/etc/containers/policy.json" // containers-policy.json(5)

var acceptAll = &signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}}

// policy reads the signature policy of a namespace anew, so that an edit counts
// for the next pull. A node without one accepts everything, as CRI-O and podman
// are packaged; New says so once.
func (r *rules) policy(namespace string) (*signature.Policy, error) {
	path, err := r.policyPath(namespace)
	if err != nil {
		return nil, err
	}
	if path == "" {
		return acceptAll, nil
	}
	p, err := signature.NewPolicyFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("signature policy %s: %w", path, err)
	}
	return p, nil
}

// policyPath is the namespace's own policy, else the node's, else none. A
// namespace's that is there but cannot be looked at is an error: the node's may
// allow more.
func (r *rules) policyPath(namespace string) (string, error) {
	if r.PolicyDir != "" && namespace != "" {
		if err := fileName(namespace); err != nil {
			return "", err
		}
		path := filepath.Join(r.PolicyDir, namespace+".json")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("signature policy of namespace %s: %w", namespace, err)
		}
	}
	if r.PolicyPath != "" {
		return r.PolicyPath, nil
	}
	if _, err := os.Stat(systemPolicy); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return systemPolicy, nil
}

// fileName refuses a namespace that would name a file elsewhere. Kubernetes
// has none such; the socket takes any text.
func fileName(namespace string) error {
	if strings.ContainsAny(namespace, "/\x00") || namespace == "." || namespace == ".." {
		return messages.Errorf(messages.Invalid, "namespace %q: there is no such namespace in Kubernetes, and no file of that name", namespace)
	}
	return nil
}

// allowed asks the policy of the namespace about an image under the name it
// was asked for by.
func (r *rules) allowed(ctx context.Context, namespace string, named reference.Named, unparsed types.UnparsedImage) error {
	policy, err := r.policy(namespace)
	if err != nil {
		return messages.Errorf(messages.SignatureValidationFailed, "%s: %w", named, err)
	}
	policyContext, err := signature.NewPolicyContext(policy)
	if err != nil {
		return messages.Errorf(messages.SignatureValidationFailed, "%s: %w", named, err)
	}
	defer policyContext.Destroy() //nolint:errcheck // frees memory only
	ok, err := policyContext.IsRunningImageAllowed(ctx, unparsed)
	if ok && err == nil {
		return nil
	}
	if kind := registryKind(ctx, err); err != nil && kind != messages.Internal {
		return messages.Errorf(kind, "signatures of %s: %w", named, err)
	}
	where, _ := r.policyPath(namespace)
	return messages.Errorf(messages.SignatureValidationFailed, "%s is not allowed by the signature policy %s: %w", named, where, err)
}

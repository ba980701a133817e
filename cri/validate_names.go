package cri

import (
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// maxName is Kubernetes' limit for a DNS subdomain.
	maxName = 253
	// maxHostname is Linux's (sethostname(2)).
	maxHostname = 64
	// maxPath is Linux's PATH_MAX.
	maxPath = 4096
	// Kubernetes limits a pod's annotations to 256 KiB in all; the kubelet
	// adds its own. Labels are at most 63+317 bytes each.
	maxAnnotations = 512 << 10
	maxLabels      = 256 << 10
)

var hostnameForm = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?)*$`)

func validatePodMetadata(m *runtime.PodSandboxMetadata) error {
	if m == nil {
		return invalid("metadata", "is missing: it names the pod")
	}
	return in("metadata", firstOf(
		validateName("name", m.GetName()),
		validateName("namespace", m.GetNamespace()),
		validateName("uid", m.GetUid()),
	))
}

// validateName keeps names usable in paths, in names of files and in logs.
func validateName(field, name string) error {
	switch {
	case name == "":
		return invalid(field, "is empty: it must be set")
	case len(name) > maxName:
		return invalid(field, "is longer than %d bytes", maxName)
	case name == "." || name == ".." || strings.ContainsRune(name, '/') || strings.ContainsFunc(name, unicode.IsControl):
		return invalid(field, "%q: must not be a path and must not contain '/' or control characters", name)
	}
	return nil
}

// validateHostname lets an empty one pass with a network of the pod's own too,
// though cri-api wants one: critest sends none. The pod then has the node's.
func validateHostname(config *runtime.PodSandboxConfig) error {
	name := config.GetHostname()
	switch {
	case name == "":
		return nil
	case len(name) > maxHostname:
		return invalid("hostname", "%q: is longer than %d bytes, the limit of Linux", name, maxHostname)
	case !hostnameForm.MatchString(name):
		return invalid("hostname", "%q: must be a DNS name (letters, digits, '-' and '.')", name)
	}
	return nil
}

// validateFilePath checks an absolute path of the node, or none.
func validateFilePath(field, p string) error {
	switch {
	case p == "":
		return nil
	case !path.IsAbs(p):
		return invalid(field, "%q: must be an absolute path", p)
	}
	return validatePathText(field, p)
}

func validatePathText(field, p string) error {
	if len(p) >= maxPath {
		return invalid(field, "is longer than %d bytes, the limit of Linux", maxPath-1)
	}
	if strings.ContainsFunc(p, unicode.IsControl) {
		return invalid(field, "%q: must not contain control characters", p)
	}
	return nil
}

// validateLogPath keeps the log below the pod's log directory.
func validateLogPath(p string) error {
	if p == "" {
		return nil
	}
	if !filepath.IsLocal(p) || path.Clean(p) == "." {
		return invalid("log_path", "%q: must be relative to the pod's log_directory and stay below it", p)
	}
	return validatePathText("log_path", p)
}

func validateMaps(labels, annotations map[string]string) error {
	return firstOf(validateMap("labels", labels, maxLabels), validateMap("annotations", annotations, maxAnnotations))
}

func validateMap(field string, values map[string]string, limit int) error {
	size := 0
	for k, v := range values {
		if k == "" {
			return invalid(field, "has an empty key")
		}
		size += len(k) + len(v)
	}
	if size > limit {
		return invalid(field, "are %d bytes in all: at most %d are taken", size, limit)
	}
	return nil
}

func isSpaceOrControl(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }

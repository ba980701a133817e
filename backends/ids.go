package backends

import (
	"regexp"

	"github.com/troupe-run/troupe/messages"
)

// An id becomes part of paths and of CNI container ids; this is the character
// set the CNI specification allows for the latter.
var idForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

// daemonsForm is the form of the ids that the daemon gives (supervisor, newID).
var daemonsForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// IsOurs says whether a name found on the node can be the id of a pod or
// container: whatever has another form, somebody else made, and it stays.
func IsOurs(id string) bool { return daemonsForm.MatchString(id) }

// CheckID refuses an id that could lead out of a directory. Ids are ours and
// never wrong; names found on disk or in a Held may be.
func CheckID(what, id string) error {
	if !idForm.MatchString(id) {
		return messages.Errorf(messages.Invalid, "%s id %q: must be letters, digits, '_', '.', '-'", what, id)
	}
	return nil
}

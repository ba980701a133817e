package backends

import (
	"regexp"

	"github.com/troupe-run/troupe/messages"
)

// longestID is what a path's element and a CNI container id may be at most.
const longestID = 128

// daemonsForm is the form of the ids that the daemon gives (supervisor, newID).
var daemonsForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// IsOurs says whether a name found on the node can be the id of a pod or
// container: whatever has another form, somebody else made, and it stays.
func IsOurs(id string) bool { return daemonsForm.MatchString(id) }

// CheckID refuses an id that could lead out of a directory. Ids are ours and
// never wrong; names found on disk or in a Held may be. The characters are
// those the CNI specification allows for a container id.
func CheckID(what, id string) error {
	for i := range len(id) {
		c := id[i]
		first := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !first && (i == 0 || c != '_' && c != '.' && c != '-') {
			return badID(what, id)
		}
	}
	if id == "" || len(id) > longestID {
		return badID(what, id)
	}
	return nil
}

func badID(what, id string) error {
	return messages.Errorf(messages.Invalid, "%s id %q: must be letters, digits, '_', '.', '-', at most %d, the first a letter or digit", what, id, longestID)
}

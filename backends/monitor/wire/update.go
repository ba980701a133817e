package wire

import "encoding/json"

// Update asks for other resources of a created or running container: all of
// them or, with an error, none. Resources is linux.resources of the OCI runtime
// spec, complete as far as an update goes (cpu, memory, hugepageLimits,
// unified); what it does not limit gets back what it had before the first
// Update.
type Update struct {
	Ref
	Resources json.RawMessage `json:"resources"`
}

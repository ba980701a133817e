//go:build !failpoints

package failpoint

// On says whether this build has failpoints.
const On = false

// Hit is a point. The parts of its name are joined by "/".
func Hit(...string) {}

// Declare makes a name known to Names. Its parts are joined by "/".
func Declare(...string) struct{} { return struct{}{} }

// Environ is what a child that has points of its own must be given.
func Environ() []string { return nil }

// Names is every declared name, sorted.
func Names() []string { return nil }

// Package failpoint names the places of this program where its death is
// rehearsed: before and after each step, undo, journal write and command.
//
// In a usual build all of it compiles to nothing. A build with the tag
// failpoints kills itself, hangs or panics at the point it is told:
//
//	TROUPE_FAILPOINT=<name>=<what>[,<nth>]   read once, when the process starts
//	TROUPE_FAILPOINT_FILE=<path>             read at each Hit, so that a test can arm a process that runs
//
// what is kill (SIGKILL to itself), hang or panic; nth is which Hit of that
// name, the first when it is left out. A file holds one such line. It is
// renamed to <path>.fired before the point does what it says: so a point fires
// once, whoever comes by next, and the test sees that it was reached. A hang
// that was armed by file ends when <path>.fired is removed.
//
// TROUPE_FAILPOINT_TRACE=<path> has the name of each Hit appended to a file: so a
// test knows which points its story comes by, and how often.
//
// `troupe failpoints` and `troupe-monitor failpoints` list all names.
package failpoint

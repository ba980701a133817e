package namespaces

// OnThrownAwayThread is for tests that must be in a namespace for a moment.
var OnThrownAwayThread = onThrownAwayThread

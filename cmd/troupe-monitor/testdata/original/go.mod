// The original of what ../../libseccomp replaces, to compare with.
module original

go 1.26.0

require github.com/seccomp/libseccomp-golang v0.12.0

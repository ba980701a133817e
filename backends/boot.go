package backends

import (
	"os"
	"strings"
)

// BootID names this boot of the node; empty when the kernel does not say.
func BootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

package wire

import "strings"

// CgroupMark is the extended attribute of each container's cgroup that says
// whose it is: cgroups are the node's, and a second Troupe, or one with other
// directories, names its own just so. The value is Mark's.
const CgroupMark = "trusted.troupe"

// Mark is the value: the container, and the directory of the monitor that made
// it, of which there is one.
func Mark(r Ref, dir string) string { return strings.Join([]string{r.Pod, r.Container, dir}, " ") }

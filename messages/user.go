package messages

import (
	"strconv"
	"strings"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// splitUser gives the user part of an image's "user[:group]" the way CRI wants
// it: a number as Uid, a name as Username (cri-api, message Image).
func splitUser(user string) (*runtime.Int64Value, string) {
	name, _, _ := strings.Cut(user, ":")
	if name == "" {
		return nil, ""
	}
	if uid, err := strconv.ParseInt(name, 10, 64); err == nil {
		return &runtime.Int64Value{Value: uid}, ""
	}
	return nil, name
}

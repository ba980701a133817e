package cri

import (
	"encoding/base64"
	"strings"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pullAuth reads the forms in which cri-api carries credentials. User and
// password win over auth, which is base64 of "user:password". The server
// address is ignored: the credentials are for the registry of the image. None
// of the forms is nil: the node's own auth files say.
func pullAuth(auth *runtime.AuthConfig) (*messages.Auth, error) {
	parsed := messages.Auth{
		Username:      auth.GetUsername(),
		Password:      auth.GetPassword(),
		IdentityToken: auth.GetIdentityToken(),
		RegistryToken: auth.GetRegistryToken(),
	}
	if parsed.Username == "" && parsed.Password == "" && auth.GetAuth() != "" {
		var err error
		if parsed.Username, parsed.Password, err = decodeAuth(auth.GetAuth()); err != nil {
			return nil, err
		}
	}
	if parsed == (messages.Auth{}) {
		return nil, nil
	}
	return &parsed, nil
}

// decodeAuth never puts the secret, or a part of it, into its error.
func decodeAuth(auth string) (user, password string, err error) {
	const help = "image pull credentials: auth must be base64 of user:password; correct the pull secret"
	decoded, err := base64.StdEncoding.DecodeString(auth)
	if err != nil {
		return "", "", messages.Errorf(messages.Invalid, help+" (it is not base64)")
	}
	user, password, ok := strings.Cut(string(decoded), ":")
	if !ok || user == "" {
		return "", "", messages.Errorf(messages.Invalid, help+" (there is no user before a colon)")
	}
	// Docker pads the password with NUL in some versions of its config file.
	return user, strings.TrimRight(password, "\x00"), nil
}

package images

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

func authJSON(host, user, password string) []byte {
	return fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

// The file is the credential provider's for one pull, and often just for a
// mirror: it must hold until the last layer, and be gone from the disk at once.
func TestAnAuthFileOfANamespaceIsForOnePullAndItsMirrors(t *testing.T) {
	reg := startRegistry(t, registryOptions{auth: true})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	s := open(t, nil, func(c *Config) {
		c.AuthDir = filepath.Dir(c.AuthFile) + "/auth"
		write(t, c.RegistriesConf, fmt.Appendf(nil, `[[registry]]
prefix = "registry.test"
location = "127.0.0.1:1"
[[registry.mirror]]
location = "127.0.0.1:1"
[[registry.mirror]]
location = %q
insecure = true`, reg.addr))
	})
	file := filepath.Join(s.cfg.AuthDir, fmt.Sprintf("team-%x.json", sha256.Sum256([]byte("registry.test/a"))))
	write(t, file, authJSON(reg.addr, user, password))
	r := backends.PullRequest{Ref: "registry.test/a:v", Namespace: "other"}
	if _, err := s.Resolve(context.Background(), r); err == nil {
		t.Error("another namespace's file was used")
	}
	r.Namespace = "team"
	m, err := s.Resolve(context.Background(), r)
	ok(t, err)
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	ok(t, s.Fetch(context.Background(), r, m, m.Layers[0], nil))
	if _, err := s.Resolve(context.Background(), r); err == nil {
		t.Error("the file was used twice")
	}
}

func TestACredentialHelperIsAsked(t *testing.T) {
	reg := startRegistry(t, registryOptions{auth: true})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	bin := t.TempDir()
	helper := fmt.Sprintf("#!/bin/sh\nread -r host\n[ \"$1 $host\" = 'get %s' ] || exit 1\necho '{\"ServerURL\":\"'$host'\",\"Username\":\"%s\",\"Secret\":\"%s\"}'\n", reg.addr, user, password)
	ok(t, os.WriteFile(bin+"/docker-credential-lab", []byte(helper), 0o700))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for name, prepare := range map[string]func(c *Config){
		"of the auth file":   func(c *Config) { write(t, c.AuthFile, fmt.Appendf(nil, `{"credHelpers":{%q:"lab"}}`, reg.addr)) },
		"of registries.conf": func(c *Config) { write(t, c.RegistriesConf, []byte(`credential-helpers = ["lab"]`)) },
		"in a drop-in, later": func(c *Config) {
			write(t, c.RegistriesConfDir+"/1.conf", []byte(`credential-helpers = ["containers-auth.json", "lab"]`))
		},
	} {
		s := open(t, reg, prepare)
		if _, err := s.Resolve(context.Background(), ask(reg.addr+"/a:v")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheAuthFileThatNamesTheRepositoryMostCloselyWins(t *testing.T) {
	reg := startRegistry(t, registryOptions{auth: true})
	reg.push(t, spec{repo: "team/a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	reg.push(t, spec{repo: "b", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	s := open(t, reg, nil)
	right := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	write(t, s.cfg.AuthFile, fmt.Appendf(nil, `{"auths":{%q:{"auth":"bm86bm8="},%q:{"auth":%q}}}`, reg.addr, reg.addr+"/team", right))
	_, err := s.Resolve(context.Background(), ask(reg.addr+"/team/a:v"))
	ok(t, err)
	if _, err := s.Resolve(context.Background(), ask(reg.addr+"/b:v")); messages.KindOf(err) != messages.Unauthorized {
		t.Errorf("with the registry's: %v", err)
	}
}

// Package cmd holds the programs. This test holds the architecture: folders
// are its parts, and imports its arrows, which go one way.
package cmd

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/troupe-run/troupe/"

// mayImport is the whole table: a folder and what of ours it may import besides
// itself and what is below it. The longest matching entry counts.
var mayImport = map[string][]string{
	"messages":             {},
	"backends":             {"messages"},
	"backends/conformance": {"messages", "backends"},
	"backends/failpoint":   {}, // everybody may import it
	"backends/thread":      {}, // and this
	"backends/fake":        {"messages", "backends"},
	"backends/bundles":     {"messages", "backends"},
	"backends/cgroups":     {"messages", "backends"},
	"backends/checkpoints": {"messages", "backends"},
	"backends/cni":         {"messages", "backends"},
	"backends/files":       {"messages", "backends"},
	"backends/gate":        {},
	"backends/images":      {"messages", "backends", "backends/gate"},
	"backends/journal":     {"messages", "backends"},
	"backends/monitor":     {"messages", "backends"},
	"backends/namespaces":  {"messages", "backends"},
	"backends/nri":         {"messages", "backends"},
	"backends/rootfs":      {"messages", "backends"},
	"backends/stats":       {"messages"},
	"backends/testlog":     {}, // for tests
	"actors":               {"messages", "backends"},
	"supervisor":           {"messages", "backends", "backends/gate", "actors"},
	"cri":                  {"messages", "messages/debugv1"},
	"simulations":          {"messages", "backends", "backends/fake", "actors", "supervisor"},
	"cmd/troupe": {
		"messages", "messages/debugv1", "backends", "actors", "supervisor", "cri",
		"backends/bundles", "backends/cgroups", "backends/checkpoints", "backends/cni", "backends/files", "backends/images",
		"backends/journal", "backends/monitor", "backends/namespaces", "backends/nri", "backends/rootfs", "backends/stats",
	},
	"cmd/troupe-monitor": {"backends/monitor/wire"},
	"cmd/troupe-sim":     {"simulations"},
	"e2e":                {"messages/debugv1", "cmd/troupe-sim/load", "backends/monitor"},
}

// onlyIn says which folders may import a module at all.
var onlyIn = map[string][]string{
	"github.com/asynkron/protoactor-go":           {"actors", "supervisor", "simulations"},
	"github.com/opencontainers/runc":              {"cmd/troupe-monitor"},
	"github.com/containernetworking/cni":          {"backends/cni"},
	"github.com/containerd/nri":                   {"backends/nri", "e2e"},
	"github.com/google/nftables":                  {"backends/cni"},
	"github.com/containers/ocicrypt":              {"backends/images", "e2e"},
	"go.podman.io/image/v5":                       {"backends/images", "backends/fake", "e2e"},
	"go.podman.io/common":                         {"backends/bundles"},
	"tags.cncf.io/container-device-interface":     {"backends/bundles"},
	"go.podman.io/storage":                        {"backends/images", "cmd/troupe", "e2e"},
	"github.com/prometheus/client_golang":         {"cmd/troupe"},
	"google.golang.org/grpc":                      {"cri", "messages/debugv1", "cmd/troupe", "cmd/troupe-sim", "e2e"},
	"github.com/asynkron/protoactor-go/remote":    {},
	"github.com/asynkron/protoactor-go/cluster":   {},
	"github.com/asynkron/protoactor-go/router":    {},
	"github.com/asynkron/protoactor-go/scheduler": {},
	"k8s.io/client-go":                            {},
	"github.com/gogo/protobuf":                    {},
	"text/template":                               {}, // with it the linker can leave out no method: a fifth of the daemon
}

// forbidden must not be in the daemon even through others.
var forbidden = []string{
	"github.com/opencontainers/runc", "github.com/asynkron/protoactor-go/remote", "github.com/asynkron/protoactor-go/cluster",
	"k8s.io/client-go", "github.com/gogo/protobuf", "runtime/cgo", "html/template", "golang.org/x/net/trace",
	module + "backends/fake", module + "backends/conformance", module + "simulations",
}

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T, cgo string, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Deps", "-tags", "containers_image_openpgp,exclude_graphdriver_btrfs,grpcnotrace,seccomp"}, args...)...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func under(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }

// longest is the entry of the table that holds for a folder.
func longest[V any](table map[string]V, folder string) (entry string, found bool) {
	for f := range table {
		if under(folder, f) && len(f) > len(entry) {
			entry, found = f, true
		}
	}
	return entry, found
}

func TestImportsGoOneWay(t *testing.T) {
	packages := list(t, "1", "./...")
	if len(packages) < 20 {
		t.Fatalf("only %d packages were listed", len(packages))
	}
	for _, p := range packages {
		folder := strings.TrimPrefix(p.ImportPath, module)
		if folder == "cmd" {
			continue // this test
		}
		entry, known := longest(mayImport, folder)
		if !known {
			t.Errorf("%s is in no entry of the table: say what it may import", folder)
			continue
		}
		for _, i := range p.Imports {
			if of, ours := strings.CutPrefix(i, module); ours {
				if of != "backends/failpoint" && of != "backends/thread" && !under(of, entry) && !slices.Contains(mayImport[entry], of) {
					t.Errorf("%s imports %s, which the table does not allow", folder, of)
				}
				continue
			}
			if rule, ruled := longest(onlyIn, i); ruled && !slices.ContainsFunc(onlyIn[rule], func(f string) bool { return under(folder, f) }) {
				t.Errorf("%s imports %s; only %v may", folder, i, onlyIn[rule])
			}
		}
	}
}

func TestTheDaemonIsPureGoWithoutWhatItMustNotLink(t *testing.T) {
	daemon := list(t, "0", "./cmd/troupe")[0]
	if len(daemon.Deps) < 100 {
		t.Fatalf("only %d dependencies were listed", len(daemon.Deps))
	}
	for _, dep := range daemon.Deps {
		for _, f := range forbidden {
			if under(dep, f) {
				t.Errorf("cmd/troupe links %s", dep)
			}
		}
	}
}

func TestTheMonitorStaysSmall(t *testing.T) {
	for _, dep := range list(t, "1", "./cmd/troupe-monitor")[0].Deps {
		for _, f := range []string{"net/http", "google.golang.org/grpc", "crypto/tls", "k8s.io", "github.com/asynkron"} {
			if under(dep, f) {
				t.Errorf("cmd/troupe-monitor links %s: each container's start pays for it", dep)
			}
		}
	}
}

// What would make two runs of one seed differ, or an actor block.
var notInActors = map[string]string{
	"time.Now": "Env.Clock", "time.After": "Env.Clock", "time.AfterFunc": "Env.Clock", "time.Sleep": "a worker",
	"time.NewTimer": "Env.Clock", "time.Since": "Env.Clock", "context.WithTimeout": "Job.Limit", "context.WithDeadline": "Job.Limit",
}

func TestActorsDecideAndNeverBlock(t *testing.T) {
	files, err := filepath.Glob("../actors/*.go")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	fset := token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			switch path := strings.Trim(i.Path.Value, `"`); path {
			case "math/rand", "math/rand/v2", "crypto/rand", "os", "net", "io", "os/exec", "net/http":
				t.Errorf("%s imports %s: the outside is reached through Env", name, path)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if n == nil {
				return true
			}
			at := fset.Position(n.Pos())
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: a go statement: use Env.Jobs", at)
			case *ast.SelectStmt, *ast.SendStmt:
				t.Errorf("%s: channels do not replay: use messages", at)
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok {
					if instead, bad := notInActors[x.Name+"."+n.Sel.Name]; bad {
						t.Errorf("%s: %s.%s: use %s", at, x.Name, n.Sel.Name, instead)
					}
					if strings.HasSuffix(n.Sel.Name, "Future") {
						t.Errorf("%s: %s: futures know no context and race (protoactor-go#1145)", at, n.Sel.Name)
					}
				}
			}
			return true
		})
	}
}

func TestTheTopLevelHoldsOnlyWhatItShould(t *testing.T) {
	allowed := strings.Fields("actors messages cri backends supervisor cmd simulations go.mod go.sum Makefile DESIGN.md README.md LICENSE .ci packaging e2e tools bench .git .gitignore .cache bin")
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(allowed, e.Name()) {
			t.Errorf("%s does not belong at the top level", e.Name())
		}
	}
}

//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// On says whether this build has failpoints.
const On = true

const (
	envSpec = "TROUPE_FAILPOINT"
	envFile = "TROUPE_FAILPOINT_FILE"
	envPath = "TROUPE_FAILPOINT_TRACE"
)

var (
	mu    sync.Mutex
	names = map[string]bool{}
	// spec is what is armed; hits counts the Hits of its name since it is.
	spec   = os.Getenv(envSpec)
	hits   int
	byFile bool // it is the file that says so: with the file it goes
	file   = os.Getenv(envFile)
	path   = os.Getenv(envPath)
)

// Declare makes a name known to Names. Its parts are joined by "/". It is for
// package variables: var _ = failpoint.Declare("journal", "save", "before").
func Declare(parts ...string) struct{} {
	mu.Lock()
	defer mu.Unlock()
	names[strings.Join(parts, "/")] = true
	return struct{}{}
}

// Environ is what a child that has points of its own must be given. The spec of
// the environment is not among it: that is meant for one process.
func Environ() []string {
	return []string{envFile + "=" + file, envPath + "=" + path}
}

// Names is every declared name, sorted.
func Names() []string {
	mu.Lock()
	defer mu.Unlock()
	all := make([]string, 0, len(names))
	for n := range names {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

// Hit is a point. The parts of its name are joined by "/". A name that was not
// declared is a mistake of this program's, which would be in no list: it panics.
func Hit(parts ...string) {
	name := strings.Join(parts, "/")
	what, armedByFile := due(name)
	if what == "" {
		return
	}
	fmt.Fprintf(os.Stderr, "failpoint %s: %s\n", name, what)
	switch what {
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way to this very thread
	case "hang":
		hang(armedByFile)
	case "panic":
		panic("failpoint " + name)
	}
}

// due says what the point is to do now, if anything, and takes it off.
func due(name string) (what string, armedByFile bool) {
	mu.Lock()
	defer mu.Unlock()
	if !names[name] {
		panic("failpoint " + name + " is hit and not declared")
	}
	trace(name)
	if file != "" {
		data, err := os.ReadFile(file)
		switch now := strings.TrimSpace(string(data)); {
		case err == nil && now != spec:
			spec, hits, byFile = now, 0, true
		case err == nil:
			byFile = true
		case byFile:
			spec, hits, byFile = "", 0, false
		}
	}
	want, what, nth := parse(spec)
	if want != name {
		return "", false
	}
	if hits++; hits < nth {
		return "", false
	}
	spec, hits = "", 0
	if byFile && os.Rename(file, file+".fired") != nil {
		return "", false // another process has come by at the same moment
	}
	return what, byFile
}

func trace(name string) {
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(name + "\n")
		_ = f.Close()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "failpoint %s cannot be traced: %v\n", name, err)
	}
}

func parse(s string) (name, what string, nth int) {
	if s == "" {
		return "", "", 0
	}
	name, what, _ = strings.Cut(s, "=")
	what, n, counted := strings.Cut(what, ",")
	nth, err := strconv.Atoi(n)
	if !counted {
		nth, err = 1, nil
	}
	if err != nil || nth < 1 || !slices.Contains([]string{"kill", "hang", "panic"}, what) {
		panic(fmt.Sprintf("failpoint %q: give <name>=kill|hang|panic[,<nth>]", s))
	}
	return name, what, nth
}

// hang blocks for ever, or until the test that armed it takes the mark away.
func hang(byFile bool) {
	if !byFile {
		select {}
	}
	for {
		if _, err := os.Stat(file + ".fired"); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

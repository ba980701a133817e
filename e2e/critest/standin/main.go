// Command standin is, by the name it is called by, the one program of the
// images that critest knows by what they do: pause, nnp (says which user it
// became), nginx and httpd. Each behaves as the real one as far as critest looks.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

func main() {
	var err error
	switch name := filepath.Base(os.Args[0]); name {
	case "pause":
		pause()
	case "nnp":
		fmt.Printf("Effective uid: %d\n", os.Geteuid())
	case "nginx":
		err = becomeMaster()
	case "httpd-foreground":
		err = serve("httpd")
	case masterName:
		err = serve("nginx")
	default:
		err = fmt.Errorf("nobody by the name of %q", name)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// pause waits for a signal to end, and reaps orphans until then: it may be
// process 1 of a pod.
func pause() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 && err != syscall.EINTR {
				break
			}
		}
	}
}

// masterName is how nginx's first process shows itself in its command line;
// its name for pidof, which is that of the file, stays "nginx".
const masterName = "nginx: master process nginx"

// becomeMaster is nginx's title; -p and a port choose another than 80.
func becomeMaster() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(self, append([]string{masterName}, os.Args[1:]...), os.Environ())
}

func serve(name string) error {
	port := 80
	if len(os.Args) == 3 && os.Args[1] == "-p" {
		var err error
		if port, err = strconv.Atoi(os.Args[2]); err != nil {
			return err
		}
	}
	if name == "nginx" {
		if err := os.WriteFile("/var/run/nginx.pid", []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
			return err
		}
	}
	go func() { // process 1 has no default action for these
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
		<-signals
		os.Exit(0)
	}()
	fmt.Fprintf(os.Stderr, "%s: serving on port %d\n", name, port)
	server := http.Server{
		Addr: ":" + strconv.Itoa(port), ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "<html><body><h1>Welcome to %s!</h1></body></html>\n", name)
		}),
	}
	return server.ListenAndServe()
}

package config

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// maxSocketPath is sizeof(sun_path) less the final zero (unix(7)).
const maxSocketPath = 107

// SocketPath is a socket's path without the scheme.
func SocketPath(listen string) string { return strings.TrimPrefix(listen, "unix://") }

// filled refuses an empty string.
func filled(o *Option) {
	check(func(v string) error {
		if v == "" {
			return errors.New("is empty; leave the line out to get the default")
		}
		return nil
	})(o)
}

func socket(v string) error {
	path := SocketPath(v)
	switch {
	case !strings.HasPrefix(path, "/"):
		return fmt.Errorf("is %q; use an absolute path, with or without unix:// in front", v)
	case len(path) > maxSocketPath:
		return fmt.Errorf("is %d bytes long; the kernel allows a socket's path %d", len(path), maxSocketPath)
	}
	return nil
}

func optionalSocket(v string) error {
	if v == "" {
		return nil
	}
	return socket(v)
}

// None switches a socket off.
const None = "none"

func socketOrNone(v string) error {
	if v == None {
		return nil
	}
	return socket(v)
}

func positive(v time.Duration) error {
	if v <= 0 {
		return fmt.Errorf("is %s; use more than 0s", v)
	}
	return nil
}

func port(v int) error {
	if v < 0 || v > 65535 {
		return fmt.Errorf("is %d; use a port from 0 (any free one) to 65535", v)
	}
	return nil
}

func portText(v string) error {
	n, err := strconv.Atoi(v)
	if err != nil {
		return fmt.Errorf("is %q; use a number in quotes, like \"0\"", v)
	}
	return port(n)
}

// durationText is for an option that crio.conf(5) has as a string.
func durationText(v string) error {
	if v == "" {
		return nil
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		return fmt.Errorf("is %q; use a duration like \"30m\"", v)
	}
	return notNegative(d)
}

func pattern(v string) error {
	if _, err := regexp.Compile(v); err != nil {
		return fmt.Errorf("is %q, not a regular expression (%w)", v, err)
	}
	return nil
}

var capabilityName = regexp.MustCompile(`^(CAP_)?[A-Z]+(_[A-Z]+)*$`)

func capabilities(v []string) error {
	for _, name := range v {
		if !capabilityName.MatchString(name) {
			return fmt.Errorf("has %q; use names of capabilities(7) like NET_RAW", name)
		}
	}
	return nil
}

// ulimits accepts name=soft:hard with −1 for unlimited (crio.conf(5)).
func ulimits(v []string) error {
	for _, item := range v {
		name, limits, ok := strings.Cut(item, "=")
		soft, hard, both := strings.Cut(limits, ":")
		if !both {
			hard = soft
		}
		s, err1 := strconv.ParseInt(soft, 10, 64)
		h, err2 := strconv.ParseInt(hard, 10, 64)
		switch {
		case !ok || name == "" || err1 != nil || err2 != nil:
			return fmt.Errorf("has %q; use name=soft:hard, like nofile=1024:2048", item)
		case h >= 0 && (s > h || s < 0):
			return fmt.Errorf("has %q, whose soft limit is above the hard one", item)
		}
	}
	return nil
}

// Package config reads crio.conf(5): the tables CRI-O's operators know, as
// they are, and a [troupe] table for what only Troupe has. Every option stands
// once, in the tables of options_*.go; defaults, checks, the printed sample,
// the manual and the list of what is known but not honoured all come from them.
package config

import (
	"time"
)

// Config is the daemon's configuration with defaults filled in.
type Config struct {
	Storage  Storage
	API      API
	Runtime  Runtime
	Handlers map[string]*Handler // by the name a RuntimeClass gives
	Image    Image
	Network  Network
	NRI      NRI
	Metrics  Metrics
	Stats    Stats
	Troupe   Troupe

	Checkpoints Checkpoints
}

// Checkpoints says what of them is switched on.
type Checkpoints struct {
	CRIU  bool
	Level string // none, checkpoint_only or checkpoint_restore
}

// Storage is the containers-storage(5) layout images live in. Empty strings
// leave the choice to storage.conf(5).
type Storage struct {
	Root, RunRoot, Driver string
	ImageStore            string
	Options               []string
}

// API is the CRI socket.
type API struct {
	Listen           string // path of a unix socket, "unix://" is allowed in front
	MaxSend, MaxRecv int    // bytes a message; ≤ 0: 80 MiB

	StreamAddress, StreamPort       string
	StreamTLS                       bool
	StreamCert, StreamKey, StreamCA string
	StreamIdle                      string // a duration, or empty: 4 h
}

// Runtime is what containers get that the kubelet does not say.
type Runtime struct {
	DefaultHandler      string
	CgroupManager       string // systemd, cgroupfs, or empty: see Config.CgroupManager
	DefaultCapabilities []string
	DefaultUlimits      []string // name=soft:hard
	DefaultEnv          []string // name=value
	DefaultSysctls      []string // name=value
	SeccompProfile      string   // path, "unconfined", or empty: the built-in profile
	PrivilegedSeccomp   string   // path, "unconfined", or empty: none
	AppArmorProfile     string   // name of a loaded profile; empty: none
	HostNetNoSELinux    bool
	SELinux             bool     // false: nothing is labelled
	Devices             []string // path[:path[:rwm]]
	PidsLimit           int      // ≤ 0: none
	AllowedDevices      []string
	DeviceOwnership     bool
	CDISpecDirs         []string
	HooksDirs           []string
	RejectAbsent        []string
	LogLevel, LogFilter string
}

// Image is how images are pulled.
type Image struct {
	AuthFile           string
	AuthDir            string
	SignaturePolicy    string
	PolicyDir          string
	DecryptionKeys     string
	Pinned             []string
	InsecureRegistries []string
	ShortNameMode      string
	TempDir            string
	ArtifactMounts     bool
	PullStall          time.Duration // 0: a pull may stand still for ever
	Volumes            string        // MakeVolumes, BindVolumes or IgnoreVolumes
}

// Network is CNI.
type Network struct {
	Dir        string
	PluginDirs []string
	PluginDir  string // the old single directory; goes in front of PluginDirs
	Default    string
}

// Metrics is the Prometheus endpoint.
type Metrics struct {
	Enable bool
	Host   string
	Port   int
	Socket string
}

// Stats is how the use of pods and containers is measured for the kubelet.
type Stats struct {
	Period     int      // seconds a measurement is an answer for; 0: none
	OldPeriod  int      // Period's former name, which yields to it
	PodMetrics []string // groups of metrics, or "all"
}

// Troupe is our own table.
type Troupe struct {
	Root, Run    string
	MonitorPath  string
	DebugListen  string
	LogFormat    string // text or json
	CgroupParent string // pods for which the kubelet names no cgroup
	DrainTimeout time.Duration
	SweepGrace   time.Duration
	MinFree      int // MiB
	Lanes        Lanes
}

// Lanes bound how many calls of one sort run at a time; the others queue.
type Lanes struct{ Start, Stop, Probe, Image, Layer, Read int }

// clone is a copy that shares nothing a file can change.
func (c *Config) clone() *Config {
	next := *c
	next.Handlers = make(map[string]*Handler, len(c.Handlers))
	for name, h := range c.Handlers {
		next.Handlers[name] = h.clone()
	}
	return &next
}

// handler gives the handler of that name, new if it was not there.
func (c *Config) handler(name string) *Handler {
	if c.Handlers == nil {
		c.Handlers = map[string]*Handler{}
	}
	if c.Handlers[name] == nil {
		c.Handlers[name] = newHandler()
	}
	return c.Handlers[name]
}

// Defaults is the configuration of a node without any file.
func Defaults() *Config {
	c := &Config{}
	for _, o := range Options() {
		if o.Honoured() && !o.perHandler() {
			o.put(c, "", o.Default)
		}
	}
	c.handler(BuiltinHandler).Type = TypeLibcontainer
	c.derive(nil)
	return c
}

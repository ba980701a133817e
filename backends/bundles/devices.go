package bundles

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// device is a device, or a directory of them, of the node in a container.
type device struct {
	host, container string
	access          string // of r, w, m
}

// devices: what is asked for, what the node gives to all, and for a privileged
// container all there are, unless its handler says otherwise. A cgroup keeps it
// from all others.
func (b *bundle) devices() error {
	if b.sc.GetPrivileged() && !b.handler().PrivilegedWithoutHostDevices {
		b.spec.Linux.Devices = hostDevices(b.node.dev)
		b.spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		return b.addDevices(false)
	}
	b.spec.Linux.Resources.Devices = append([]specs.LinuxDeviceCgroup{denyAllDevices()}, standardDevices()...)
	return b.addDevices(true)
}

func (b *bundle) addDevices(restricted bool) error {
	asked, err := b.annotatedDevices()
	if err != nil {
		return err
	}
	asked = append(slices.Clone(b.defaults.devices), asked...)
	for _, d := range b.r.Config.GetDevices() {
		own := device{d.GetHostPath(), d.GetContainerPath(), d.GetPermissions()}
		if err := own.complete("devices"); err != nil {
			return err
		}
		asked = append(asked, own)
	}
	for _, d := range asked {
		found, err := d.find()
		if err != nil {
			return err
		}
		for _, dev := range found {
			b.ownDevice(&dev)
			b.addDevice(dev)
			if restricted {
				rule := specs.LinuxDeviceCgroup{Allow: true, Type: dev.Type, Major: &dev.Major, Minor: &dev.Minor, Access: d.access}
				b.spec.Linux.Resources.Devices = append(b.spec.Linux.Resources.Devices, rule)
			}
		}
	}
	return nil
}

// annotatedDevices are those a pod asks for by CRI-O's annotation, as far as
// allowed_devices has them.
func (b *bundle) annotatedDevices() ([]device, error) {
	const annotation = "io.kubernetes.cri-o.Devices"
	text, ok := b.annotation(annotation)
	if !ok || text == "" {
		return nil, nil
	}
	devices, err := parseDevices("annotation "+annotation, strings.Split(text, ","))
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		if !slices.Contains(b.config.AllowedDevices, d.host) {
			return nil, messages.Errorf(messages.Invalid, "annotation %s: %s is not in allowed_devices of this node", annotation, d.host)
		}
	}
	return devices, nil
}

// ownDevice gives a device to the container's user, where the node is set to: a
// container that does not run as root could not open it otherwise.
func (b *bundle) ownDevice(dev *specs.LinuxDevice) {
	if !b.config.DeviceOwnership {
		return
	}
	if user := b.sc.GetRunAsUser(); user != nil {
		uid := uint32(user.GetValue())
		dev.UID = &uid
	}
	if group := b.sc.GetRunAsGroup(); group != nil {
		gid := uint32(group.GetValue())
		dev.GID = &gid
	}
}

// addDevice lets the later of two with the same path win.
func (b *bundle) addDevice(dev specs.LinuxDevice) {
	list := &b.spec.Linux.Devices
	*list = append(slices.DeleteFunc(*list, func(d specs.LinuxDevice) bool { return d.Path == dev.Path }), dev)
}

// parseDevices reads "/dev/a[:/dev/b][:rwm]".
func parseDevices(field string, texts []string) ([]device, error) {
	var devices []device
	for _, text := range texts {
		parts := append(strings.Split(strings.TrimSpace(text), ":"), "", "")
		d := device{parts[0], parts[1], parts[2]}
		if len(parts) > 5 {
			return nil, messages.Errorf(messages.Invalid, "%s: %q: must be host-path:container-path:permissions", field, text)
		}
		if d.access == "" && d.container != "" && strings.Trim(d.container, "rwm") == "" { // "/dev/a:rw"
			d.container, d.access = "", d.container
		}
		if err := d.complete(field); err != nil {
			return nil, err
		}
		devices = append(devices, d)
	}
	return devices, nil
}

func (d *device) complete(field string) error {
	if d.container == "" {
		d.container = d.host
	}
	if d.access == "" {
		d.access = "rwm"
	}
	if !path.IsAbs(d.host) || !path.IsAbs(d.container) {
		return messages.Errorf(messages.Invalid, "%s: %q, %q: host and container path must be absolute", field, d.host, d.container)
	}
	if strings.Trim(d.access, "rwm") != "" {
		return messages.Errorf(messages.Invalid, "%s: %s: permissions %q: must be of r, w and m", field, d.host, d.access)
	}
	return nil
}

// find gives the device, or all below a directory, with their paths in the
// container.
func (d device) find() ([]specs.LinuxDevice, error) {
	real, err := filepath.EvalSymlinks(d.host)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, messages.Errorf(messages.Invalid, "device %s does not exist on the node", d.host)
	}
	if err != nil {
		return nil, messages.Errorf(messages.Invalid, "device %s: %w", d.host, err)
	}
	if info, err := os.Stat(real); err == nil && info.IsDir() {
		return d.findBelow(real)
	}
	dev, ok := readDevice(real, path.Clean(d.container))
	if !ok {
		return nil, messages.Errorf(messages.Invalid, "device %s is not a device", d.host)
	}
	return []specs.LinuxDevice{dev}, nil
}

func (d device) findBelow(dir string) ([]specs.LinuxDevice, error) {
	var found []specs.LinuxDevice
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if dev, ok := readDevice(p, path.Join(d.container, strings.TrimPrefix(p, dir))); ok {
			found = append(found, dev)
		}
		return nil
	})
	if err == nil && len(found) == 0 {
		err = messages.Errorf(messages.Invalid, "device directory %s holds no device", d.host)
	}
	return found, err
}

// readDevice looks at a path without opening it or following a link.
func readDevice(host, container string) (specs.LinuxDevice, bool) {
	var st unix.Stat_t
	if err := unix.Lstat(host, &st); err != nil {
		return specs.LinuxDevice{}, false
	}
	dev := specs.LinuxDevice{Path: container, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev))}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		dev.Type = "c"
	case unix.S_IFBLK:
		dev.Type = "b"
	default:
		return specs.LinuxDevice{}, false
	}
	mode := os.FileMode(st.Mode & 0o777)
	dev.FileMode, dev.UID, dev.GID = &mode, &st.Uid, &st.Gid
	return dev, true
}

// notHanded are directories of /dev with file systems of their own, which the
// container has for itself, or other managers' mounts.
var notHanded = []string{"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"}

// hostDevices are all devices of the node. /dev/console is the container's own
// terminal, and ptmx is of its own devpts. What goes while it is looked at is
// left out.
func hostDevices(root string) []specs.LinuxDevice {
	var found []specs.LinuxDevice
	_ = filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil // devices come and go
		case e.IsDir() && slices.Contains(notHanded, e.Name()):
			return fs.SkipDir
		case p == filepath.Join(root, "console"), p == filepath.Join(root, "ptmx"):
			return nil
		}
		if dev, ok := readDevice(p, path.Join("/dev", strings.TrimPrefix(p, root))); ok {
			found = append(found, dev)
		}
		return nil
	})
	return found
}

func denyAllDevices() specs.LinuxDeviceCgroup { return specs.LinuxDeviceCgroup{Access: "rwm"} }

// standardDevices are those a runtime makes in every container (OCI runtime
// spec, config-linux.md, default devices), with the nodes themselves free to
// make: a node is of no use without a rule for its device.
func standardDevices() []specs.LinuxDeviceCgroup {
	allow := func(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: access}
		if major >= 0 {
			rule.Major = &major
		}
		if minor >= 0 {
			rule.Minor = &minor
		}
		return rule
	}
	const every = -1
	return []specs.LinuxDeviceCgroup{
		allow("c", every, every, "m"), allow("b", every, every, "m"),
		allow("c", 1, 3, "rwm"), allow("c", 1, 5, "rwm"), allow("c", 1, 7, "rwm"), // null, zero, full
		allow("c", 1, 8, "rwm"), allow("c", 1, 9, "rwm"), // random, urandom
		allow("c", 5, 0, "rwm"), allow("c", 5, 1, "rwm"), allow("c", 5, 2, "rwm"), // tty, console, ptmx
		allow("c", 136, every, "rwm"), // pts
	}
}

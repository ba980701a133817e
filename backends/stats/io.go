package stats

import (
	"bytes"
	"fmt"
	"path"
	"strings"
	"sync"

	"github.com/troupe-run/troupe/messages"
)

// io reads block IO; the devices only when all is wanted.
func (t *trees) io(r *reader, p place, u *messages.IOUsage, whole bool) {
	u.Pressure = r.pressure(p.v2, "io.pressure")
	switch {
	case !whole:
	case p.blkio != "":
		t.ioV1(r, p.blkio, u)
	case p.v2 != "":
		if text, err := r.read(path.Join(p.v2, "io.stat")); err == nil {
			u.Devices = ioStat(text)
		}
	}
	for i := range u.Devices {
		d := &u.Devices[i]
		d.Device = t.devices.name(d.Major, d.Minor)
	}
}

func (t *trees) ioV1(r *reader, dir string, u *messages.IOUsage) {
	if text, err := r.read(path.Join(dir, "blkio.throttle.io_service_bytes_recursive")); err == nil {
		u.Devices = throttled(text, nil, func(d *messages.DeviceIO) (read, write, discard *uint64) {
			return &d.ReadBytes, &d.WriteBytes, &d.DiscardBytes
		})
	}
	if text, err := r.read(path.Join(dir, "blkio.throttle.io_serviced_recursive")); err == nil {
		u.Devices = throttled(text, u.Devices, func(d *messages.DeviceIO) (read, write, discard *uint64) {
			return &d.Reads, &d.Writes, &d.Discards
		})
	}
}

// throttled reads "major:minor Operation number" lines
// (Documentation/admin-guide/cgroup-v1/blkio-controller.rst).
func throttled(text []byte, into []messages.DeviceIO, fields func(*messages.DeviceIO) (read, write, discard *uint64)) []messages.DeviceIO {
	for l := lines(text); ; {
		line, ok := l.next()
		if !ok {
			return into
		}
		w := words(line)
		number1, _ := w.next()
		operation, _ := w.next()
		value, _ := w.next()
		major, minor, ok := deviceNumber(number1)
		n := number(value)
		if !ok || !n.Known {
			continue // "Total 4096" at the end
		}
		into = withDevice(into, major, minor)
		read, write, discard := fields(find(into, major, minor))
		switch string(operation) {
		case "Read":
			*read = n.N
		case "Write":
			*write = n.N
		case "Discard":
			*discard = n.N
		}
	}
}

// ioStat reads io.stat: "major:minor rbytes=… wbytes=… rios=… wios=… …"
// (Documentation/admin-guide/cgroup-v2.rst).
func ioStat(text []byte) (devices []messages.DeviceIO) {
	for l := lines(text); ; {
		line, ok := l.next()
		if !ok {
			return devices
		}
		w := words(line)
		first, _ := w.next()
		major, minor, ok := deviceNumber(first)
		if !ok {
			continue
		}
		devices = withDevice(devices, major, minor)
		d := find(devices, major, minor)
		for field, ok := w.next(); ok; field, ok = w.next() {
			key, value, _ := bytes.Cut(field, []byte{'='})
			n := number(value).N
			switch string(key) {
			case "rbytes":
				d.ReadBytes = n
			case "wbytes":
				d.WriteBytes = n
			case "dbytes":
				d.DiscardBytes = n
			case "rios":
				d.Reads = n
			case "wios":
				d.Writes = n
			case "dios":
				d.Discards = n
			}
		}
	}
}

func deviceNumber(text []byte) (major, minor uint64, ok bool) {
	a, b, _ := bytes.Cut(text, []byte{':'})
	x, y := number(a), number(b)
	return x.N, y.N, x.Known && y.Known
}

func withDevice(devices []messages.DeviceIO, major, minor uint64) []messages.DeviceIO {
	if find(devices, major, minor) != nil {
		return devices
	}
	return append(devices, messages.DeviceIO{Major: major, Minor: minor})
}

func find(devices []messages.DeviceIO, major, minor uint64) *messages.DeviceIO {
	for i := range devices {
		if devices[i].Major == major && devices[i].Minor == minor {
			return &devices[i]
		}
	}
	return nil
}

// devices are the names of block devices. A number is given to another device
// only when the first has gone from the node, so names are kept.
type devices struct{ names sync.Map }

type devNumber struct{ major, minor uint64 }

func (d *devices) name(major, minor uint64) string {
	key := devNumber{major, minor}
	if name, ok := d.names.Load(key); ok {
		return name.(string)
	}
	name := fmt.Sprintf("%d:%d", major, minor)
	r := readers.Get().(*reader)
	defer readers.Put(r)
	text, err := r.read("/sys/dev/block/" + name + "/uevent")
	if err != nil {
		return name // no such device (any more): not kept
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if dev, ok := strings.CutPrefix(line, "DEVNAME="); ok {
			name = "/dev/" + dev
		}
	}
	d.names.Store(key, name)
	return name
}

// hugePages reads the huge pages of each size the node has.
func (t *trees) hugePages(r *reader, p place) (all []messages.HugePageUsage) {
	for _, size := range t.hugeOf {
		var now, most messages.Amount
		if p.huge != "" {
			now = r.number(p.huge, "hugetlb."+size+".usage_in_bytes")
			most = r.number(p.huge, "hugetlb."+size+".max_usage_in_bytes")
		} else if p.v2 != "" {
			now = r.number(p.v2, "hugetlb."+size+".current")
		}
		if now.Known {
			all = append(all, messages.HugePageUsage{Size: size, Bytes: now.N, Max: max(now.N, most.N)})
		}
	}
	return all
}

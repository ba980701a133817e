package cri_test

import (
	"encoding/binary"
	"math"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// source gives the decisions that an input stands for: a byte each; 0, which
// spoils nothing, when there are no more.
type source struct{ left []byte }

func (s *source) more() bool { return len(s.left) > 0 }

func (s *source) next() byte {
	if len(s.left) == 0 {
		return 0
	}
	b := s.left[0]
	s.left = s.left[1:]
	return b
}

func (s *source) upTo(n int) int { return int(s.next()) % n }

func (s *source) number() uint64 {
	var b [8]byte
	for i := range b {
		b[i] = s.next()
	}
	return binary.LittleEndian.Uint64(b[:])
}

func (s *source) bytes() []byte {
	n := min(int(s.next()), len(s.left))
	b := s.left[:n]
	s.left = s.left[n:]
	return b
}

// request is a valid request, spoiled at up to seven places, as bytes; one in
// sixteen is spoiled as bytes on top.
func (w *world) request(m method, in *source) []byte {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
	w.must(err)
	message := kind.New()
	w.fill(message, in.next()&1 == 1, 0)
	for n := in.upTo(8); n > 0; n-- {
		w.spoil(message, in, 0)
	}
	data, err := proto.Marshal(message.Interface())
	if err != nil { // text that is no UTF-8: the server must hear of it too
		data = in.bytes()
	}
	if in.upTo(16) == 15 && len(data) > 0 {
		for n := in.upTo(4); n >= 0; n-- {
			at := int(in.number() % uint64(len(data)))
			data[at] = in.next()
		}
		data = data[:len(data)-in.upTo(len(data))]
	}
	return data
}

// fill makes a message that is valid by the names of its fields; all of its
// fields when whole, else what is needed.
func (w *world) fill(m protoreflect.Message, whole bool, depth int) {
	switch v := m.Interface().(type) {
	case *runtime.PodSandboxConfig:
		proto.Merge(v, validPod())
		v.Metadata.Name = "new"
		return
	case *runtime.ContainerConfig:
		proto.Merge(v, validContainer())
		return
	case *runtime.ImageSpec:
		v.Image = image
		return
	case *runtime.LinuxContainerResources:
		proto.Merge(v, validContainer().Linux.Resources)
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := string(f.Name())
		switch {
		case f.IsMap(), name == "windows": // what is valid in the one depends on the request; the other never is
		case f.IsList():
			switch name {
			case "cmd":
				m.Mutable(f).List().Append(protoreflect.ValueOfString("true"))
			case "container_ids":
				m.Mutable(f).List().Append(protoreflect.ValueOfString(w.running))
			case "container_configs":
				c := validContainer()
				c.Metadata.Name = "running"
				m.Mutable(f).List().Append(protoreflect.ValueOfMessage(c.ProtoReflect()))
			}
		case f.Kind() == protoreflect.MessageKind:
			if depth < 3 && (whole || name == "config" || name == "image" || name == "sandbox_config" || name == "linux") {
				w.fill(m.Mutable(f).Message(), whole, depth+1)
			}
		case f.Kind() == protoreflect.StringKind:
			if s := w.named(name, m.Descriptor()); s != "" {
				m.Set(f, protoreflect.ValueOfString(s))
			}
		case f.Kind() == protoreflect.BoolKind && name == "stdout":
			m.Set(f, protoreflect.ValueOfBool(true))
		}
	}
}

func (w *world) named(field string, of protoreflect.MessageDescriptor) string {
	switch field {
	case "pod_sandbox_id":
		return w.pod
	case "container_id":
		return w.running
	case "location", "output_path":
		return "/var/checkpoints/x"
	case "checkpoint_path":
		return kept
	case "id":
		if strings.HasPrefix(string(of.Name()), "Pod") {
			return w.pod
		}
		return w.running
	}
	return ""
}

// spoil changes one place of a message. Which one: a field of it, or, when that
// is a message, often a place in there.
func (w *world) spoil(m protoreflect.Message, in *source, depth int) {
	fields := m.Descriptor().Fields()
	if fields.Len() == 0 {
		return
	}
	f := fields.Get(in.upTo(fields.Len()))
	switch how := in.upTo(8); {
	case how == 0:
		m.Clear(f)
	case f.IsMap():
		for n := many(in); n > 0; n-- {
			key := w.scalar(f.MapKey(), in).MapKey()
			if f.MapValue().Kind() == protoreflect.MessageKind {
				w.spoil(m.Mutable(f).Map().Mutable(key).Message(), in, depth+1)
				continue
			}
			m.Mutable(f).Map().Set(key, w.scalar(f.MapValue(), in))
		}
	case f.IsList():
		w.spoilList(m.Mutable(f).List(), f, in, depth)
	case f.Kind() == protoreflect.MessageKind:
		if how == 1 || depth > 8 { // there, and empty
			m.Set(f, m.NewField(f))
			return
		}
		w.spoil(m.Mutable(f).Message(), in, depth+1)
	default:
		m.Set(f, w.scalar(f, in))
	}
}

// spoilList changes an element, or adds some.
func (w *world) spoilList(l protoreflect.List, f protoreflect.FieldDescriptor, in *source, depth int) {
	if n := l.Len(); n > 0 && in.upTo(2) == 0 {
		if at := in.upTo(n); f.Kind() == protoreflect.MessageKind {
			w.spoil(l.Get(at).Message(), in, depth+1)
		} else {
			l.Set(at, w.scalar(f, in))
		}
		return
	}
	for n := many(in); n > 0; n-- {
		if f.Kind() == protoreflect.MessageKind {
			w.spoil(l.AppendMutable().Message(), in, depth+1)
		} else {
			l.Append(w.scalar(f, in))
		}
	}
}

func many(in *source) int { return []int{1, 1, 1, 2, 3, 8, 100, 5000}[in.upTo(8)] }

// scalar is a value of a field's type, most often one at an edge.
func (w *world) scalar(f protoreflect.FieldDescriptor, in *source) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(w.text(in))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(w.text(in)))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(in.next()&1 == 1)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(int32(integer(in))))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(integer(in)))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(integer(in))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(integer(in)))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(integer(in)))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(math.Float64frombits(in.number()))
	}
	return f.Default()
}

func integer(in *source) int64 {
	edges := []int64{0, 1, -1, 2, 3, 5, 64, 1000, 65535, 65536, math.MaxInt32, math.MaxInt32 + 1, math.MaxUint32, math.MaxUint32 + 1, math.MaxInt64, math.MinInt64, math.MinInt32}
	if i := in.upTo(len(edges) + 2); i < len(edges) {
		return edges[i]
	}
	return int64(in.number()) >> (in.next() & 63)
}

// text is a string that has meant something bad somewhere before, or one of the
// input's own.
func (w *world) text(in *source) string {
	known := []string{
		"", " ", "\x00", "a\nb", "a:b", "a=b", "/", "//", ".", "..", "../../x", "/../x", "a/../../..", "/proc/self/fd/7", "/proc/self/exe", "-", "-1", "--x", "é", "\u202e\u2028", "%s%n",
		"\xff\xfe", "true", "false", "no-such-command", "sleep", "trap", "99999", "SIGTERM", "0-3", "9999999999-0,", "2MB", "10.0.0.1", "::1", "fe80::1%eth0", "localhost/x", "registry.example/other:1",
		image, "a@sha256:" + strings.Repeat("0", 64), "sha256:" + strings.Repeat("0", 64), "*", "$(x)", "{}", "\r\n", "kernel.core_pattern", "net.ipv4.ip_forward", "memory.high", "unconfined", "crun", "native",
		w.pod, w.running, w.created, w.pod[:1], w.running[:8], "new", "running", "created",
	}
	i := in.upTo(len(known) + 8)
	switch over := i - len(known); {
	case over < 0:
		return known[i]
	case over < 3:
		return strings.Repeat("a", []int{64, 256, 4097}[over])
	case over == 3:
		return strings.Repeat("x/", 1<<15)
	case over == 4:
		return strings.Repeat("é", 1<<19)
	}
	return string(in.bytes())
}

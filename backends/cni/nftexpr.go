package cni

import (
	"net/netip"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The parts of rules, in the words of nft(8). Values go through register 1.

var loopback4 = netip.MustParsePrefix("127.0.0.0/8")

func all(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

// redirect: [ip daddr HOSTIP] PROTO dport HOSTPORT dnat to PODIP:PODPORT.
func redirect(f forward) []expr.Any {
	var host []expr.Any
	if f.HostIP.IsValid() {
		host = address(false, f.HostIP)
	}
	return all(isIPv4(f.PodIP.Is4()), host, port(f.Protocol, f.HostPort), []expr.Any{
		&expr.Immediate{Register: 1, Data: f.PodIP.AsSlice()},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(f.PodPort)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: family(f.PodIP.Is4()), RegAddrMin: 1, RegProtoMin: 2, Specified: true},
	})
}

// masquerade: ip saddr SUBNET ip daddr PODIP PROTO dport PODPORT masquerade,
// and the same for connections from the node's loopback.
func masquerade(f forward) [][]expr.Any {
	sources := []netip.Prefix{f.Subnet}
	if f.PodIP.Is4() {
		sources = append(sources, loopback4)
	}
	var rules [][]expr.Any
	for _, source := range sources {
		rules = append(rules, all(isIPv4(f.PodIP.Is4()), within(true, source), address(false, f.PodIP),
			port(f.Protocol, f.PodPort), []expr.Any{&expr.Masq{}}))
	}
	return rules
}

func family(v4 bool) uint32 {
	if v4 {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

// isIPv4: meta nfproto ipv4, or ipv6.
func isIPv4(yes bool) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{byte(family(yes))})}
}

// toLocalAddress: fib daddr type local.
func toLocalAddress() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		equal(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)),
	}
}

// redirected: ct status dnat.
func redirected() []expr.Any {
	const dnat = 1 << 5 // IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(dnat), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// notFromLoopback: iifname != "lo".
func notFromLoopback() []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: name}}
}

// address: ip daddr IP, or ip6; source instead when asked for.
func address(source bool, ip netip.Addr) []expr.Any {
	return []expr.Any{load(source, ip.Is4()), equal(ip.AsSlice())}
}

// within: ip daddr PREFIX, or ip6; source instead when asked for.
func within(source bool, p netip.Prefix) []expr.Any {
	size := p.Addr().BitLen() / 8
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		load(source, p.Addr().Is4()),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(size), Mask: mask, Xor: make([]byte, size)},
		equal(p.Masked().Addr().AsSlice()),
	}
}

// load takes an address from the header of IPv4 or IPv6.
func load(source, v4 bool) expr.Any {
	at := map[bool]map[bool]uint32{true: {true: 12, false: 16}, false: {true: 8, false: 24}}[v4][source]
	size := uint32(16)
	if v4 {
		size = 4
	}
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: size}
}

// port: PROTO dport PORT.
func port(protocol string, number uint16) []expr.Any {
	proto := map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}[protocol]
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{proto}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		equal(binaryutil.BigEndian.PutUint16(number)),
	}
}

func equal(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// forwarder keeps the rules of host ports in one table of nftables. It speaks
// to the kernel itself: neither nft nor iptables need to be installed. Each
// pod has two chains with its id in their names, and each change is one
// transaction, so that a kill leaves all of it or nothing.
//
//	table inet troupe_hostports_<of this daemon> {
//	  prerouting, output: to an address of the node     → jump hostports
//	  hostports:          for each pod                  → jump ports-<pod>
//	  ports-<pod>:        tcp dport 8080                → dnat to 10.1.2.3:80
//	  postrouting:        was redirected                → jump returns
//	  returns:            for each pod                  → jump returns-<pod>
//	  returns-<pod>:      from the pod's subnet or 127.0.0.0/8 → masquerade
//	  martians:           for 127.0.0.0/8, not from lo  → drop
//	}
//
// The answer to somebody in the pod's own subnet, or in the pod itself, would
// not come back by the node; so for them the node's address is put in.
type forwarder struct{ table string }

const (
	portsChain, returnsChain   = "hostports", "returns"
	portsPrefix, returnsPrefix = "ports-", "returns-"
)

// newForwarder names the table after where this daemon keeps its results: two
// daemons on one node must not sweep each other's rules away.
func newForwarder(cacheDir string) *forwarder {
	sum := sha256.Sum256([]byte(cacheDir))
	return &forwarder{table: "troupe_hostports_" + hex.EncodeToString(sum[:4])}
}

// persist tries again what can fail because another program changes rules at
// the same time: a listing is then cut off (EINTR), or what it showed is gone.
func persist(do func() error) error {
	for try := 0; ; try++ {
		err := do()
		if err == nil || try == 4 {
			return err
		}
		time.Sleep(time.Duration(try+1) * 5 * time.Millisecond)
	}
}

// pods are the pods with rules.
func (f *forwarder) pods() (pods map[string]bool, err error) {
	err = persist(func() error {
		pods, err = f.list()
		return err
	})
	return pods, err
}

func (f *forwarder) list() (map[string]bool, error) {
	c, table, err := f.open()
	if err != nil || table == nil {
		return nil, err
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list the chains of nftables: %w", err)
	}
	pods := map[string]bool{}
	for _, ch := range chains {
		if pod, ok := strings.CutPrefix(ch.Name, portsPrefix); ok && ch.Table.Name == f.table {
			pods[pod] = true
		}
	}
	return pods, nil
}

// open gives the table, nil when there is none. A kernel without nftables has
// none either.
func (f *forwarder) open() (*nftables.Conn, *nftables.Table, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, nil, fmt.Errorf("open nftables: %w", err)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EINVAL):
		return c, nil, nil
	case err != nil:
		return nil, nil, fmt.Errorf("list the tables of nftables: %w", err)
	}
	for _, t := range tables {
		if t.Name == f.table {
			return c, t, nil
		}
	}
	return c, nil, nil
}

// add makes the rules of a pod, in the place of those it may have.
func (f *forwarder) add(pod string, forwards []forward) error {
	if err := f.remove(pod); err != nil {
		return err
	}
	c, table, err := f.open()
	if err != nil {
		return err
	}
	if table == nil {
		table = f.base(c)
	}
	ports := c.AddChain(&nftables.Chain{Name: portsPrefix + pod, Table: table})
	returns := c.AddChain(&nftables.Chain{Name: returnsPrefix + pod, Table: table})
	for _, fw := range forwards {
		c.AddRule(&nftables.Rule{Table: table, Chain: ports, Exprs: redirect(fw)})
		for _, exprs := range masquerade(fw) {
			c.AddRule(&nftables.Rule{Table: table, Chain: returns, Exprs: exprs})
		}
	}
	c.AddRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: portsChain, Table: table}, Exprs: jump(ports.Name)})
	c.AddRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: returnsChain, Table: table}, Exprs: jump(returns.Name)})
	return unsupported(c.Flush())
}

// remove takes the rules of a pod away, and with the last pod's the table.
func (f *forwarder) remove(pod string) error {
	return persist(func() error { return f.takeAway(pod) })
}

func (f *forwarder) takeAway(pod string) error {
	pods, err := f.list()
	if err != nil || !pods[pod] {
		return err
	}
	c, table, err := f.open()
	if err != nil || table == nil {
		return err
	}
	if len(pods) == 1 {
		c.DelTable(table)
		return c.Flush()
	}
	for base, own := range map[string]string{portsChain: portsPrefix + pod, returnsChain: returnsPrefix + pod} {
		rules, err := c.GetRules(table, &nftables.Chain{Name: base, Table: table})
		if err != nil {
			return fmt.Errorf("list the rules of nftables chain %s: %w", base, err)
		}
		for _, r := range rules {
			if leadsTo(r, own) {
				if err := c.DelRule(r); err != nil {
					return err
				}
			}
		}
		chain := &nftables.Chain{Name: own, Table: table}
		c.FlushChain(chain)
		c.DelChain(chain)
	}
	return c.Flush()
}

func leadsTo(r *nftables.Rule, chain string) bool {
	for _, e := range r.Exprs {
		if v, ok := e.(*expr.Verdict); ok && v.Kind == expr.VerdictJump && v.Chain == chain {
			return true
		}
	}
	return false
}

// base makes the table and all in it that is no pod's.
func (f *forwarder) base(c *nftables.Conn) *nftables.Table {
	table := c.AddTable(&nftables.Table{Name: f.table, Family: nftables.TableFamilyINet})
	hook := func(name string, kind nftables.ChainType, at *nftables.ChainHook, priority *nftables.ChainPriority, exprs []expr.Any) {
		chain := c.AddChain(&nftables.Chain{Name: name, Table: table, Type: kind, Hooknum: at, Priority: priority})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	c.AddChain(&nftables.Chain{Name: portsChain, Table: table})
	c.AddChain(&nftables.Chain{Name: returnsChain, Table: table})
	toNode := all(toLocalAddress(), jump(portsChain))
	hook("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, toNode)
	hook("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest, toNode)
	hook("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, all(redirected(), jump(returnsChain)))
	hook("martians", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw,
		all(notFromLoopback(), isIPv4(true), within(false, loopback4), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}))
	return table
}

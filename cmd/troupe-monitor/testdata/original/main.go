// Command original reads a profile (libcontainer's configs.Seccomp as JSON) on
// stdin and writes the program that libseccomp makes of it through the original
// bindings. It is a reading of its own of what the profile means.
package main

import (
	"encoding/json"
	"log"
	"os"

	seccomp "github.com/seccomp/libseccomp-golang"
)

type rule struct {
	Name     string `json:"name"`
	Action   int    `json:"action"`
	ErrnoRet *int16 `json:"errnoRet"`
	Args     []struct {
		Index    uint   `json:"index"`
		Value    uint64 `json:"value"`
		ValueTwo uint64 `json:"value_two"`
		Op       int    `json:"op"`
	} `json:"args"`
}

type profile struct {
	DefaultAction   int      `json:"default_action"`
	DefaultErrnoRet *int16   `json:"default_errno_ret"`
	Architectures   []string `json:"architectures"`
	Flags           []string `json:"flags"`
	Syscalls        []rule   `json:"syscalls"`
}

var (
	actions = []seccomp.ScmpAction{
		0, seccomp.ActKillThread, seccomp.ActErrno, seccomp.ActTrap, seccomp.ActAllow, seccomp.ActTrace,
		seccomp.ActLog, seccomp.ActNotify, seccomp.ActKillThread, seccomp.ActKillProcess,
	}
	compares = []seccomp.ScmpCompareOp{
		0, seccomp.CompareEqual, seccomp.CompareNotEqual, seccomp.CompareGreater, seccomp.CompareGreaterEqual,
		seccomp.CompareLess, seccomp.CompareLessOrEqual, seccomp.CompareMaskedEqual,
	}
)

func action(kind int, code *int16) seccomp.ScmpAction {
	if code == nil {
		return actions[kind].SetReturnCode(1) // EPERM
	}
	return actions[kind].SetReturnCode(*code)
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	var p profile
	must(json.NewDecoder(os.Stdin).Decode(&p))
	byDefault := action(p.DefaultAction, p.DefaultErrnoRet)
	f, err := seccomp.NewFilter(byDefault)
	must(err)
	for _, name := range p.Architectures {
		arch, err := seccomp.GetArchFromString(name)
		must(err)
		must(f.AddArch(arch))
	}
	for _, flag := range p.Flags {
		switch flag {
		case "SECCOMP_FILTER_FLAG_LOG":
			must(f.SetLogBit(true))
		case "SECCOMP_FILTER_FLAG_SPEC_ALLOW":
			must(f.SetSSB(true))
		}
	}
	if len(p.Syscalls) > 32 {
		must(f.SetOptimize(2))
	}
	must(f.SetNoNewPrivsBit(false))
	for _, r := range p.Syscalls {
		number, err := seccomp.GetSyscallFromName(r.Name)
		if err != nil || action(r.Action, r.ErrnoRet) == byDefault {
			continue
		}
		add(f, r, number)
	}
	must(f.ExportBPF(os.Stdout))
}

// add gives all conditions to one rule, or each to its own when two are about
// the same argument.
func add(f *seccomp.ScmpFilter, r rule, number seccomp.ScmpSyscall) {
	var all []seccomp.ScmpCondition
	seen, twice := map[uint]bool{}, false
	for _, a := range r.Args {
		c, err := seccomp.MakeCondition(a.Index, compares[a.Op], a.Value, a.ValueTwo)
		must(err)
		all = append(all, c)
		twice = twice || seen[a.Index]
		seen[a.Index] = true
	}
	act := action(r.Action, r.ErrnoRet)
	if len(all) == 0 {
		must(f.AddRule(number, act))
		return
	}
	if !twice {
		must(f.AddRuleConditional(number, act, all))
		return
	}
	for i := range all {
		must(f.AddRuleConditional(number, act, all[i:i+1]))
	}
}

package config

import "slices"

// The types of a runtime handler. What works is decided by Handler.works.
const (
	TypeLibcontainer = "libcontainer" // in troupe-monitor, no binary needed
	TypeOCI          = "oci"
	TypeVM           = "vm"
	TypePod          = "pod"
)

// BuiltinHandler is the handler that is there without any file.
const BuiltinHandler = "libcontainer"

const (
	handlerPrefix  = "crio.runtime.runtimes."
	workloadPrefix = "crio.runtime.workloads."
)

var allOptions = slices.Concat(
	troupeOptions, storageOptions, apiOptions, runtimeOptions, handlerOptions,
	workloadOptions, imageOptions, networkOptions, nriOptions, otherOptions, statsOptions)

// Options are all options there are, in the order of the printed file.
func Options() []Option { return allOptions }

// tables says what a table is for, above it in the printed file.
var tables = map[string]string{
	"troupe":              "What only Troupe has.",
	"crio":                "Where images are stored. Left out, storage.conf(5) decides.",
	"crio.api":            "The socket the kubelet talks to.",
	"crio.runtime":        "What containers get that the kubelet does not say.",
	handlerPrefix + "*":   "One table for each runtime handler, named as in a RuntimeClass. A table with nothing in it, like [crio.runtime.runtimes.crun], offers the program of that name in $PATH; libcontainer needs no table.",
	workloadPrefix + "*":  "Workload types.",
	"crio.image":          "How images are pulled; registries.conf(5), policy.json(5) and auth.json(5) hold as well.",
	"crio.network":        "CNI.",
	"crio.metrics":        "Prometheus metrics.",
	"crio.stats":          "Statistics.",
	"crio.tracing":        "OpenTelemetry traces.",
	"crio.nri":            "The Node Resource Interface: plugins of the node that see and adjust containers.",
	nriValidatorTable:     "The check of what NRI plugins make of containers.",
	checkpointTable:       "Checkpoints.",
	workloadResourceTable: "Resources of a workload type.",
}

const (
	nriValidatorTable     = "crio.nri.default_validator"
	checkpointTable       = "crio.checkpoint_restore"
	workloadResourceTable = workloadPrefix + "*.resources"
)

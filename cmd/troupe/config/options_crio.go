package config

import (
	"path/filepath"
	"time"
)

var storageOptions = []Option{
	honoured("crio.root", "", func(c *Config) *string { return &c.Storage.Root },
		"The image store. Empty: storage.conf(5), else /var/lib/containers/storage.", absolute),
	honoured("crio.runroot", "", func(c *Config) *string { return &c.Storage.RunRoot },
		"The image store's run directory. Empty: storage.conf(5), else /run/containers/storage.", absolute),
	honoured("crio.storage_driver", "overlay", func(c *Config) *string { return &c.Storage.Driver },
		"The storage driver. Containers are mounted by overlay, so no other can be used.", oneOf("", "overlay")),
	honoured("crio.storage_option", []string{}, func(c *Config) *[]string { return &c.Storage.Options },
		"Options for the storage driver, name=value (containers-storage.conf(5)).", pairs),
	honoured("crio.imagestore", "", func(c *Config) *string { return &c.Storage.ImageStore },
		"Images are kept in this directory instead of in root, for a disk of their own. Empty: root.", absolute),
	known("crio.log_dir", "/var/log/pods", "the kubelet names the log directory of each pod"),
	known("crio.version_file", "", "a reboot is noticed by the kernel's boot id; pods of before are shown as not ready, not wiped"),
	known("crio.version_file_persist", "", "an upgrade never wipes images: every version reads the store of the one before"),
	known("crio.clean_shutdown_file", "", "an unclean shutdown needs no wipe: what did not reach the disk whole is put aside at the start"),
	known("crio.internal_wipe", true, "nothing is wiped at a start, true or false; `troupe wipe --force` wipes, and what nobody owns is swept"),
	known("crio.internal_repair", true, "images that are not whole go at every start, true or false; `troupe check` reads all of them again"),
}

var apiOptions = []Option{
	honoured("crio.api.listen", "", func(c *Config) *string { return &c.API.Listen },
		"The CRI socket.",
		derived(func(c *Config) string { return filepath.Join(c.Troupe.Run, "troupe.sock") }), check(socket)),
	honoured("crio.api.grpc_max_send_msg_size", defaultMessageSize, func(c *Config) *int { return &c.API.MaxSend },
		"The largest answer, in bytes; 0: 80 MiB."),
	honoured("crio.api.grpc_max_recv_msg_size", defaultMessageSize, func(c *Config) *int { return &c.API.MaxRecv },
		"The largest request, in bytes; 0: 80 MiB."),
	honoured("crio.api.stream_address", "127.0.0.1", func(c *Config) *string { return &c.API.StreamAddress },
		"The address exec, attach and port-forward sessions are served on. The kubelet connects to it."),
	honoured("crio.api.stream_port", "0", func(c *Config) *string { return &c.API.StreamPort },
		"The port they are served on. \"0\": any free one.", check(portText)),
	honoured("crio.api.stream_enable_tls", false, func(c *Config) *bool { return &c.API.StreamTLS },
		"Serve them by TLS 1.2 or later, with stream_tls_cert and stream_tls_key."),
	honoured("crio.api.stream_idle_timeout", "", func(c *Config) *string { return &c.API.StreamIdle },
		"How long nothing may be sent in a session before it is ended, like \"30m\". Empty: 4h.", check(durationText)),
	honoured("crio.api.stream_tls_cert", "", func(c *Config) *string { return &c.API.StreamCert },
		"The certificate they are served with, in PEM. The files are read again when they have changed.", absolute),
	honoured("crio.api.stream_tls_key", "", func(c *Config) *string { return &c.API.StreamKey },
		"The key to it.", absolute),
	honoured("crio.api.stream_tls_ca", "", func(c *Config) *string { return &c.API.StreamCA },
		"Only clients with a certificate of these authorities are let in. Empty: everybody who has a session's address.", absolute),
}

const (
	noMetrics = "not yet"
	noTracing = "traces are not there yet"

	// defaultMessageSize is CRI-O's (crio.conf(5)): lists of a full node pass
	// the 4 MiB of grpc.
	defaultMessageSize = 80 << 20
)

var networkOptions = []Option{
	honoured("crio.network.network_dir", "/etc/cni/net.d", func(c *Config) *string { return &c.Network.Dir },
		"Where CNI configurations are; the first in lexical order is used.", filled, absolute),
	honoured("crio.network.plugin_dirs", []string{"/opt/cni/bin", "/usr/libexec/cni", "/usr/lib/cni"},
		func(c *Config) *[]string { return &c.Network.PluginDirs },
		"Where CNI plugins are; the first directory that has one wins.", absolutes),
	honoured("crio.network.plugin_dir", "", func(c *Config) *string { return &c.Network.PluginDir },
		"Old form of plugin_dirs; searched before them.", absolute),
	honoured("crio.network.cni_default_network", "", func(c *Config) *string { return &c.Network.Default },
		"The name of the network pods are attached to. Empty: the first found."),
	known("crio.network.cni_status_grace_period", time.Duration(0), "a failing CNI STATUS shows at once"),
}

var otherOptions = []Option{
	honoured("crio.metrics.enable_metrics", false, func(c *Config) *bool { return &c.Metrics.Enable },
		"Serve Prometheus metrics by HTTP under /metrics."),
	honoured("crio.metrics.metrics_host", "127.0.0.1", func(c *Config) *string { return &c.Metrics.Host },
		"The address they are served on."),
	honoured("crio.metrics.metrics_port", 9090, func(c *Config) *int { return &c.Metrics.Port },
		"The port they are served on.", check(port)),
	honoured("crio.metrics.metrics_socket", "", func(c *Config) *string { return &c.Metrics.Socket },
		"A unix socket to serve them on as well. Empty: none.", check(optionalSocket)),
	known("crio.metrics.metrics_collectors", []string{}, "all collectors are on"),
	known("crio.metrics.metrics_cert", "", noMetrics),
	known("crio.metrics.metrics_key", "", noMetrics),

	known("crio.tracing.enable_tracing", false, noTracing),
	known("crio.tracing.tracing_endpoint", "127.0.0.1:4317", noTracing),
	known("crio.tracing.tracing_sampling_rate_per_million", 0, noTracing),

	honoured(checkpointTable+".container_level_enabled", "checkpoint_only", func(c *Config) *string { return &c.Checkpoints.Level },
		"none, checkpoint_only (CheckpointContainer, CheckpointPod) or checkpoint_restore (RestorePod as well).",
		oneOf("none", "checkpoint_only", "checkpoint_restore")),
}

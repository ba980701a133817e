package config

import "time"

var imageOptions = []Option{
	honoured("crio.image.global_auth_file", "", func(c *Config) *string { return &c.Image.AuthFile },
		"Credentials for registries when the kubelet gives none, in the form of docker's config.json.", live, absolute),
	honoured("crio.image.namespaced_auth_dir", "/etc/crio/auth", func(c *Config) *string { return &c.Image.AuthDir },
		"Credentials for one pull, as CRI-O's credential provider leaves them: <namespace>-<SHA-256 of the repository>.json, used before global_auth_file and removed.", live, absolute),
	honoured("crio.image.signature_policy", "", func(c *Config) *string { return &c.Image.SignaturePolicy },
		"The signature policy. Empty: /etc/containers/policy.json.", live, absolute),
	honoured("crio.image.signature_policy_dir", "/etc/crio/policies", func(c *Config) *string { return &c.Image.PolicyDir },
		"Signature policies of namespaces: <namespace>.json in it is used instead of signature_policy.", live, absolute),
	honoured("crio.image.pinned_images", []string{}, func(c *Config) *[]string { return &c.Image.Pinned },
		"Images the kubelet must not collect: a name, a glob (name*) or a keyword (*name*).", live),
	honoured("crio.image.insecure_registries", []string{}, func(c *Config) *[]string { return &c.Image.InsecureRegistries },
		"Registries (host:port) that may be spoken to by HTTP or with any certificate; better said in registries.conf(5), and only there where it names mirrors.", live),
	honoured("crio.image.short_name_mode", "enforcing", func(c *Config) *string { return &c.Image.ShortNameMode },
		"What an image name without registry means: enforcing refuses an ambiguous one, disabled takes the first.",
		live, oneOf("enforcing", "permissive", "disabled")),
	honoured("crio.image.big_files_temporary_dir", "", func(c *Config) *string { return &c.Image.TempDir },
		"Where the image library keeps big temporary files. Empty: /var/tmp.", absolute),
	honoured("crio.image.pull_progress_timeout", 5*time.Minute, func(c *Config) *time.Duration { return &c.Image.PullStall },
		"End a pull that stood still for so long; 0s: never.", check(notNegative)),
	honoured("crio.image.image_volumes", MakeVolumes, func(c *Config) *string { return &c.Image.Volumes },
		"The VOLUMEs of images: mkdir makes a directory in the root, bind a directory of its own that goes with the container, ignore nothing.",
		oneOf(MakeVolumes, BindVolumes, IgnoreVolumes)),
	honoured("crio.image.oci_artifact_mount_support", true, func(c *Config) *bool { return &c.Image.ArtifactMounts },
		"OCI artifacts can be mounted as image volumes; they can be pulled in any case."),
	known("crio.image.registries", []string{}, "use unqualified-search-registries of registries.conf(5)"),
	known("crio.image.default_transport", "docker://", "images come from registries"),
	known("crio.image.pause_image", "", noPause),
	known("crio.image.pause_image_auth_file", "", noPause),
	known("crio.image.pause_command", "", noPause),
	known("crio.image.auto_reload_registries", false, "SIGHUP re-reads registries.conf(5)"),
	known("crio.image.additional_artifact_stores", []string{}, "artifacts are read from Troupe's own store only"),
}

// The ways to treat the VOLUMEs of images.
const (
	MakeVolumes   = "mkdir"
	BindVolumes   = "bind"
	IgnoreVolumes = "ignore"
)

const noPause = "no pause image is used: the pause process is built in"

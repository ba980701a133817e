package main

// libraryHoles are closed by libcontainer, as we link and use it. Its guard is
// taken away in a copy of it.
var libraryHoles = []hole{
	{
		cves: []string{"CVE-2019-5736"}, whose: "runc", what: "a container got hold of the program that enters it, and wrote over it",
		test:  e2eTest("TestTheProgramThatEntersAContainerIsNotTheNodes"),
		guard: []edit{runc("container_linux.go", "if exeseal.IsSelfExeCloned() {", "if true || exeseal.IsSelfExeCloned() {")},
	},
	{
		cves: []string{"CVE-2019-19921", "CVE-2023-27561", "CVE-2023-28642"}, whose: "runc", what: "with /proc a link in the image, what confines through /proc met the image's files",
		test:  e2eTest("TestAProcThatIsALinkIsRefused"),
		guard: []edit{runc("rootfs_linux.go", "} else if !fi.IsDir() {\n			return fmt.Errorf(\"filesystem %q must be mounted on ordinary directory\", m.Device)\n		}", "} else {\n			_ = fi\n		}")},
	},
	{
		cves: []string{"CVE-2021-30465", "CVE-2024-45310"}, whose: "runc", what: "a link in a volume had a mount, or its directory, made on the node (the race is not raced: the link is there from the start)",
		test: e2eTest("TestAMountBelowALinkInAVolumeStaysInTheContainer"),
		guard: []edit{
			runc("rootfs_linux.go", "dstFile, err := pathrs.OpenInRoot(root, unsafePath, unix.O_PATH)", "dstFile, err := os.OpenFile(filepath.Join(rootfs, unsafePath), unix.O_PATH|unix.O_CLOEXEC, 0)"),
			runc("rootfs_linux.go", "dstFile, err = pathrs.MkdirAllInRoot(root, unsafePath, 0o755)", "_ = os.MkdirAll(filepath.Join(rootfs, unsafePath), 0o755)\n			dstFile, err = os.OpenFile(filepath.Join(rootfs, unsafePath), unix.O_PATH|unix.O_CLOEXEC, 0)"),
		},
	},
	{
		cves: []string{"CVE-2023-25809"}, whose: "runc", what: "the node's cgroup tree could be written to",
		test:  e2eTest("TestTheCgroupTreeCannotBeWrittenTo"),
		guard: []edit{ours("backends/bundles/mounts.go", "access := \"ro\"\n	if b.sc.GetPrivileged() {", "access := \"rw\"\n	if b.sc.GetPrivileged() {")},
	},
	{
		cves: []string{"CVE-2024-21626"}, whose: "runc", what: "a descriptor of the node's file system, left open, became the working directory",
		test:    e2eTest("TestAWorkingDirectoryCannotBeADescriptorOfTheNodes"),
		mistake: []edit{ours("cmd/troupe-monitor/main.go", "	m.keeper, m.lockFile, keeper.replace = keeper, lock, m.replaceKeeper\n", "	m.keeper, m.lockFile, keeper.replace = keeper, lock, m.replaceKeeper\n	_, _ = unix.Open(\"/\", unix.O_RDONLY|unix.O_DIRECTORY, 0)\n")},
		guard: []edit{
			runc("init_linux.go", "if err := verifyCwd(); err != nil {", "if err := error(nil); err != nil {"),
			runc("container_linux.go", "if err := utils.CloseExecFrom(3); err != nil {", "if err := error(nil); err != nil {"),
		},
	},
	{
		cves: []string{"CVE-2025-31133"}, whose: "runc", what: "with /dev/null a link, masks were what it leads to",
		test:  e2eTest("TestALinkInPlaceOfADeviceIsNotFollowed"),
		guard: []edit{runc("rootfs_linux.go", "	if err := verifyDevNull(devNull); err != nil {", "	if err := error(nil); err != nil {")},
	},
	{
		cves: []string{"CVE-2025-52565"}, whose: "runc", what: "with /dev/console a link, the terminal was mounted over what it leads to",
		test:  e2eTest("TestAConsoleThatIsALinkIsNotFollowed"),
		guard: []edit{runc("console_linux.go", "unix.O_NOFOLLOW|unix.O_CREAT|unix.O_CLOEXEC", "unix.O_CREAT|unix.O_CLOEXEC")},
	},
	{
		cves: []string{"CVE-2026-41579"}, whose: "runc", what: "with /dev a link in the image, links were made and files removed where it leads",
		test: e2eTest("TestADevThatIsALinkMakesNothingOnTheNode"),
		guard: []edit{
			runc("rootfs_linux.go", "if err := pathrs.UnlinkInRoot(rootFd, \"/dev/ptmx\", 0); err != nil", "if err := os.Remove(filepath.Join(rootFd.Name(), \"/dev/ptmx\")); err != nil"),
			runc("rootfs_linux.go", "return pathrs.SymlinkInRoot(\"pts/ptmx\", rootFd, \"/dev/ptmx\")", "return os.Symlink(\"pts/ptmx\", filepath.Join(rootFd.Name(), \"/dev/ptmx\"))"),
		},
	},
}

// notOurs are published holes of the same projects that Troupe cannot have.
var notOurs = []struct{ cves, whose, why string }{
	{"CVE-2016-9962", "runc", "libcontainer's init is not dumpable; before user namespaces and that, kernel and library of 2016"},
	{"CVE-2019-10214, CVE-2020-1702, CVE-2024-3727", "containers/image", "in versions long before the one linked; digests of manifests are held against what was asked for (TestAManifestOfAnotherDigestThanAskedForIsRefused)"},
	{"CVE-2019-14891", "CRI-O", "the monitor is not in a pod's cgroup"},
	{"CVE-2021-43784", "runc", "a length that overflowed; 1.0.3 and later are not concerned"},
	{"CVE-2022-36109", "moby", "not a CRI runtime; the same hole as CVE-2022-2995"},
	{"CVE-2022-3466", "CRI-O", "a distribution's build without an earlier fix"},
	{"CVE-2023-25153", "containerd", "a file of an archive was read whole: images are loaded by containers/image, which bounds each"},
	{"CVE-2023-30549", "Apptainer", "a setuid program; Troupe has none"},
	{"CVE-2024-1753, CVE-2024-9407, CVE-2024-9675, CVE-2026-79705", "buildah, podman", "Troupe builds no images"},
	{"CVE-2024-9341", "containers/common", "no FIPS directories are mounted"},
	{"CVE-2025-0750", "CRI-O", "the annotation that links a pod's logs into it does not exist here"},
	{"CVE-2025-47291", "containerd", "cgroups of pods in user namespaces are made by the same code as all others"},
	{"CVE-2026-119614", "CRIU", "the program itself; see CVE-2026-119101"},
}

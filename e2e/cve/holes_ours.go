package main

// holes are those whose guard is ours, then those of libraries.
var holes = append(oursHoles, libraryHoles...)

var oursHoles = []hole{
	{
		cves: []string{"CVE-2022-0811"}, whose: "CRI-O", what: "a sysctl's value smuggled in kernel.core_pattern",
		test: e2eTest("TestASysctlCannotSmuggleInAnother"),
		guard: []edit{ours("backends/namespaces/sysctl.go",
			"	default:\n		return messages.Errorf(messages.Invalid, \"sysctl %s: not namespaced, it would change the whole node; set it on the node itself\", name)\n", "")},
	},
	{
		cves: []string{"CVE-2022-0532"}, whose: "CRI-O", what: "with the node's network, a pod's sysctls were the node's",
		test:  e2eTest("TestAPodOnTheNodesNetworkCannotSetItsSysctls"),
		guard: []edit{ours("backends/namespaces/sysctl.go", "if !r.Network {", "if false {")},
	},
	{
		cves: []string{"CVE-2022-1708", "CVE-2022-31030"}, whose: "CRI-O, containerd", what: "ExecSync kept all a command printed in memory",
		test:  test{kernel, "./backends/monitor", "TestExecOutputIsCappedAt16MiB"},
		guard: []edit{ours("cmd/troupe-monitor/exec.go", "captureMax = 16 << 20", "captureMax = 1 << 40")},
	},
	{
		cves: []string{"CVE-2022-23648"}, whose: "containerd", what: "a VOLUME that is a link brought files of the node into the container",
		test: test{unit, "./backends/rootfs", "TestAnAnonymousVolumeHasWhatTheImageHasThere"},
		guard: []edit{ours("backends/rootfs/copy.go", "handle, err := pathrs.OpenInRoot(rootfs, name)",
			"_ = pathrs.OpenInRoot\n	handle, err := os.Open(rootfs + name)")},
	},
	{
		cves: []string{"CVE-2022-24769", "CVE-2022-27652", "CVE-2022-29162"}, whose: "containerd, CRI-O, runc", what: "inheritable capabilities gave a container's users those of files",
		test:  e2eTest("TestNothingIsInheritableUnlessItIsAmbient"),
		guard: []edit{ours("backends/bundles/capabilities.go", "Inheritable: ambient, Ambient: ambient", "Inheritable: set, Ambient: ambient")},
	},
	{
		cves: []string{"CVE-2018-1000400"}, whose: "CRI-O", what: "ambient capabilities for users who should have none",
		test:  e2eTest("TestNothingIsInheritableUnlessItIsAmbient"),
		guard: []edit{ours("backends/bundles/capabilities.go", "Inheritable: ambient, Ambient: ambient", "Inheritable: set, Ambient: set")},
	},
	{
		cves: []string{"CVE-2022-2995", "CVE-2023-25173"}, whose: "CRI-O, containerd", what: "the primary group was not among the supplementary ones, so that dropping it gave rights",
		test:  bundles("TestUsersAreResolvedInTheImage"),
		guard: []edit{ours("backends/bundles/user.go", "groups := append([]uint32{who.gid}, who.groups...)", "groups := append([]uint32{}, who.groups...)")},
	},
	{
		cves: []string{"CVE-2024-40635", "CVE-2026-46680"}, whose: "containerd", what: "a user's number that is too large was root, or a name that the image gives to root",
		test:  bundles("TestAUserIDThatIsTooLargeIsNotAnotherUser"),
		guard: []edit{ours("backends/bundles/user.go", "if n := cmp.Or(tooLarge(w.user), tooLarge(w.group)); n != \"\" {", "if n := cmp.Or(tooLarge(w.user), tooLarge(w.group)); false {")},
	},
	{
		cves: []string{"CVE-2024-3154", "CVE-2023-6476"}, whose: "CRI-O", what: "annotations of a pod steered the runtime: a unit's properties, limits of the cgroup",
		test:  e2eTest("TestAnnotationsDoNotReachTheRuntime"),
		guard: []edit{ours("backends/bundles/handlers.go", "return messages.AnnotationAllowed(h.AllowedAnnotations, name)", "return true || messages.AnnotationAllowed(h.AllowedAnnotations, name)")},
	},
	{
		cves: []string{"CVE-2024-5154"}, whose: "CRI-O", what: "a link in the image in place of a directory that the runtime makes",
		test: bundles("TestTheWorkingDirectoryIsMadeInsideTheRoot"),
		guard: []edit{
			ours("backends/bundles/inroot.go", "inside, err := securejoin.SecureJoin(b.r.Rootfs, dir)", "inside, err := securejoin.SecureJoin(b.r.Rootfs, dir)\n	inside = path.Join(b.r.Rootfs, dir)"),
			ours("backends/bundles/inroot.go", "if err = pathrs.MkdirAll(b.r.Rootfs, made, os.FileMode(0o755)); err == nil {", "if err = os.MkdirAll(b.r.Rootfs+made, 0o755); err == nil {"),
		},
	},
	{
		cves: []string{"CVE-2024-9676"}, whose: "containers/storage", what: "/etc/passwd of an image that is a link was read on the node",
		test:  bundles("TestAPasswdThatIsALinkOutOfTheImageGivesNothingOfTheHost"),
		guard: []edit{ours("backends/bundles/inroot.go", "handle, err := pathrs.OpenInRoot(rootfs, name)", "handle, err := os.OpenFile(rootfs+name, unix.O_PATH, 0)")},
	},
	{
		cves: []string{"CVE-2025-4437"}, whose: "CRI-O", what: "a huge /etc/passwd was read into memory",
		test:  bundles("TestAPasswdOf100MBIsRefusedWithoutBeingRead"),
		guard: []edit{ours("backends/bundles/inroot.go", "case info.Size() > maxAccountFile:", "case false:")},
	},
	{
		cves: []string{"CVE-2026-47262"}, whose: "containerd", what: "groups of an image without bound",
		test:  bundles("TestAUserInMoreGroupsThanLinuxAllowsIsRefused"),
		guard: []edit{ours("backends/bundles/user.go", "const maxGroups = 65536", "const maxGroups = 1 << 40")},
	},
	{
		cves: []string{"CVE-2019-16884", "CVE-2025-52881"}, whose: "runc", what: "a file system over /proc caught the writes that confine the container",
		test:  bundles("TestNothingFakeIsMountedOverProc"),
		guard: []edit{ours("backends/bundles/mount_rules.go", "if !below(at, \"/proc\") || slices.Contains(overProc, at) {", "if true || !below(at, \"/proc\") || slices.Contains(overProc, at) {")},
	},
	{
		cves: []string{"CVE-2025-64329", "CVE-2022-23471"}, whose: "containerd", what: "sessions of clients that have gone, and their goroutines, stayed for ever",
		test:  test{unit, "./cri", "TestAHundredSessionsLeaveNoGoroutine"},
		guard: []edit{ours("cri/client.go", "	if leave != nil {\n		leave()\n	}\n", "	_ = leave\n")},
	},
	{
		cves: []string{"CVE-2021-43816"}, whose: "containerd", what: "a mount of /etc or the like was given the container's SELinux label",
		test:  test{unit, "./backends/rootfs", "TestWhatTheNodeNeedsIsNotRelabelled"},
		guard: []edit{ours("backends/rootfs/relabel.go", `"/dev", "/etc", "/etc/passwd"`, `"/dev", "/etc/passwd"`)},
	},
	{
		cves: []string{"CVE-2021-41103", "CVE-2024-25621"}, whose: "containerd", what: "users of the node could look into roots and volumes",
		test:  e2eTest("TestUsersOfTheNodeReachNothingOfContainers"),
		guard: []edit{ours("cmd/troupe/lock.go", "os.MkdirAll(dir, 0o700)", "os.MkdirAll(dir, 0o755)")},
	},
	{
		cves: []string{"CVE-2020-15257"}, whose: "containerd", what: "the helper's socket could be connected to by everybody",
		test:  e2eTest("TestUsersOfTheNodeReachNothingOfContainers"),
		guard: []edit{ours("cmd/troupe-monitor/server.go", "old := unix.Umask(0o177)", "old := unix.Umask(0)")},
	},
	{
		cves: []string{"CVE-2020-15157"}, whose: "containerd", what: "a foreign layer's URL got the registry's credentials",
		test:  e2eTest("TestAForeignLayerIsRefusedClearly"),
		guard: []edit{ours("backends/images/manifest.go", "case len(info.URLs) > 0, strings.Contains(kind, \"foreign\"), strings.Contains(kind, \"nondistributable\"):", "case false:")},
	},
	{
		cves: []string{"CVE-2021-20291"}, whose: "containers/storage", what: "an xz layer made the storage wait for ever under its lock",
		test:  imageTest("TestAnXZLayerIsRefused"),
		guard: []edit{ours("backends/images/decompress.go", "bytes.Equal(head, xzMagic)", "false && bytes.Equal(head, xzMagic)")},
	},
	{
		cves: []string{"CVE-2026-95837", "CVE-2026-92574"}, whose: "containerd, CRI-O", what: "a restore gave processes the rights that the checkpoint says",
		test:  monitorIs("TestCapturedProcessesWithMoreRightsThanTheContainerAreRefused"),
		guard: []edit{ours("cmd/troupe-monitor/confined.go", "if i > 1 && word != 0 || i < 2 && uint32(word)&^uint32(allowed>>(32*i)) != 0 {", "if false && i > 1 && word != 0 && allowed == 0 {")},
	},
	{
		cves: []string{"CVE-2026-119101", "CVE-2026-115520"}, whose: "runc, crun", what: "a link in an image made a restore mount a directory of the node",
		test:  monitorIs("TestAMountWhosePlaceCRIUWouldMisreadIsNotRestored"),
		guard: []edit{ours("cmd/troupe-monitor/extmounts.go", "where == \"\" || strings.Contains(where, \"]:\")", "false && strings.Contains(where, \"]:\")")},
	},
	{
		cves: []string{"CVE-2026-53489"}, whose: "containerd", what: "links in a checkpoint's archive were followed on the node",
		test:  test{unit, "./backends/checkpoints", "TestAnArchiveThatLeadsElsewhereIsRefusedAndReachesNothing"},
		guard: []edit{ours("backends/checkpoints/unpack.go", "f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)", "f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)")},
	},
	{
		cves: []string{"CVE-2022-4318", "CVE-2026-15809"}, whose: "CRI-O", what: "a line break in HOME became a line of /etc/passwd",
		test:     e2eTest("TestTheEnvironmentAddsNoUser"),
		notShown: "there is nothing to take away: no file of the container is written from its environment",
	},
	{
		cves: []string{"CVE-2026-53488"}, whose: "containerd", what: "an image's labels became the container's",
		test:     e2eTest("TestLabelsOfAnImageAreNotTheContainers"),
		notShown: "there is nothing to take away: labels of images are only shown with images",
	},
	{
		cves: []string{"CVE-2021-32760", "CVE-2025-47290", "CVE-2025-11395"}, whose: "containerd, containers/storage", what: "a layer changed files of the node: by modes of links, by links swapped in, by names that lead out",
		test:     imageTest("TestNoEntryOfALayerLeadsOutOfIt"),
		notShown: "without the thread's own root (backends/images/extract.go, chrooted) the test's layers would be unpacked over this machine",
	},
	{
		cves: []string{"CVE-2026-50195", "CVE-2026-53492", "CVE-2024-8676"}, whose: "containerd, CRI-O", what: "a checkpoint's archive named images to tag, CDI devices and mounts of the node",
		test:     test{unit, "./backends/checkpoints", "TestACheckpointIsHeldAgainstWhatItIsToBecome"},
		notShown: "there is nothing to take away: of the archive only files and process images are used, all else is the request's",
	},
}

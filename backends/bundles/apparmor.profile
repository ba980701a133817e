# The AppArmor profile behind RuntimeDefault (apparmor.d(5)).
#
# It is the second fence: masked paths, read-only mounts, dropped capabilities
# and seccomp come first. A container that was given more capabilities than the
# default (SYS_ADMIN above all) still finds these doors closed. What a rule
# denies is said above it. Everything not named is as the file modes have it.
profile {{.Name}} flags=(attach_disconnected,mediate_deleted) {
  # Files, the network and capabilities are decided elsewhere: by owners and
  # modes, by the network namespace, by the container's capability sets.
  file,
  network,
  capability,

  # No rule allows mount, umount, pivot_root or change_profile, so all are
  # denied: with CAP_SYS_ADMIN a process could otherwise remount /proc/sys
  # writable, lift the masks, or leave this profile.

  # Processes of the same profile may signal and trace each other; from outside
  # come the runtime's signals. Nobody outside can be traced.
  signal (send, receive) peer={{.Name}},
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  ptrace (trace, read, tracedby, readby) peer={{.Name}},
  ptrace (readby, tracedby) peer=unconfined,

  # Memory and keys of the kernel, and the emergency switch of the machine.
  deny /proc/{kcore,kmem,mem,keys,key-users,sysrq-trigger} rwklx,
  # The kernel's own knobs outside processes: interrupts, buses, file systems.
  deny /proc/{acpi,asound,bus,fs,irq,scsi,tty,driver,mtrr,timer_list}{,/**} wklx,

  # Sysctls. Those of a namespace stay writable where the mount allows it:
  # net.*, kernel.{shm,msg,sem}*, kernel.{host,domain}name, fs.mqueue.*. The
  # rest are the node's; kernel.core_pattern or kernel.modprobe start programs
  # as the node's root.
  deny /proc/sys/{abi,crypto,debug,dev,sunrpc,user,vm}/** wklx,
  deny /proc/sys/fs/[^m]** wklx,
  deny /proc/sys/fs/m[^q]** wklx,
  deny /proc/sys/kernel/[^dhms]** wklx,
  deny /proc/sys/kernel/d[^o]** wklx,
  deny /proc/sys/kernel/h[^o]** wklx,
  deny /proc/sys/kernel/ho[^s]** wklx,
  deny /proc/sys/kernel/m[^s]** wklx,
  deny /proc/sys/kernel/s[^eh]** wklx,
  deny /proc/sys/kernel/se[^m]** wklx,
  deny /proc/sys/kernel/sh[^m]** wklx,

  # Firmware tables and EFI variables, security modules, tracing: neither read
  # nor written. Devices, modules, power: not written. Only /sys/fs/cgroup is
  # left to its mount.
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/{security,debug,tracing}/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/{block,bus,class,dev,devices,hypervisor,kernel,module,power}/** wklx,
  deny /sys/fs/{bpf,btrfs,ext4,f2fs,fuse,pstore,resctrl,selinux,smackfs,xfs}/** wklx,
}

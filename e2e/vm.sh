#!/bin/bash
# Runs Troupe in a Debian guest with systemd and pure cgroup v2 (shared/vm): the
# tests of the backends that touch the kernel, end-to-end tests with the
# cgroupfs manager, and e2e/vm with the units installed and the systemd manager.
# Usage: vm.sh [PART...]   PART is one of: cgroups namespaces rootfs bundles stats monitor e2e vm
# VM_EXTRA=criu puts CRIU into the guest: without it the tests of checkpoints are skipped. As it
# rebuilds the guest, give it a cache of its own (VM_CACHE).
# KERNEL=new takes the newest kernel of backports instead of the release's (PIDFD_INFO_EXIT: with
# it alone the exit codes of containers are known that outlived their monitor).
# Needs root, what `make build tools` makes, and shared/vm (VM names another place).
set -euo pipefail
TAGS=containers_image_openpgp,exclude_graphdriver_btrfs
PARTS=(cgroups namespaces rootfs bundles stats monitor e2e vm)

# What the guest runs of each part. It is emulated and ten times slower than the
# host: left out are tests that repeat something fifty times, or that look at
# nothing a cgroup or systemd could change.
arguments() {
  case $1 in
    monitor) echo "-test.skip FiftyRuns|TwentyContainers|CappedAt16MiB" ;;
    e2e) echo "-test.run ^Test(ResourcesAreInTheCgroup|AContainerOutOfMemoryIsReportedOOMKilled|PodsSurviveTheDaemonsDeath|APodInAUserNamespace|AUserNamespaceSurvivesTheDaemonsDeath|AUserNamespaceWithTheNodesNetwork|MasksAndReadOnlyPathsHold)$" ;;
    *) ;;
  esac
}

inside() { # in the guest, where the project is /project
  export PATH=/project/.cache/vm:$PATH TROUPE_TEST_MONITOR=/project/bin/troupe-monitor TROUPE_TEST_SLOWNESS=10
  for part in "$@"; do
    case $part in e2e | vm) dir=${part/#vm/e2e/vm} ;; *) dir=backends/$part ;; esac
    echo "== $part"
    cd "/project/$dir"
    # shellcheck disable=SC2046 # the arguments are words
    "/project/.cache/vm/$part.test" -test.v -test.timeout 15m $(arguments "$part") 2>&1 || echo "== $part failed"
  done
}

build() {
  mkdir -p .cache/vm
  for part in "$@"; do
    case $part in e2e | vm) dir=${part/#vm/e2e/vm} tags=vm,$TAGS ;; *) dir=backends/$part tags=$TAGS ;; esac
    CGO_ENABLED=0 go test -c -tags "$tags" -o ".cache/vm/$part.test" "./$dir"
  done
  cp "$(command -v docker-registry)" .cache/vm/ # the guest has no network to install it from
}

# summary reads the log: every test once, and a part that ended in another way
# than by a failed test (a panic, a crash of the guest) as one that failed.
summary() {
  awk -v parts="$*" '
    /^== [a-z0-9]+$/ { part = $2; seen[part] = 1 }
    /^--- PASS: / { passed++ }
    /^--- SKIP: / { skipped++ }
    /^--- FAIL: / { failed++; bad[part]++; print "failed: " part " " $3 }
    /^== [a-z0-9]+ failed$/ { broke[$2] = 1 }
    END {
      n = split(parts, all, " ")
      for (i = 1; i <= n; i++)
        if (!seen[all[i]] || (broke[all[i]] && !bad[all[i]])) { failed++; print "failed: " all[i] " did not get to its end" }
      if (skipped) print skipped " skipped: they need cgroup v1, or criu"
      print passed + 0 " passed, " failed + 0 " failed"
      exit failed > 0
    }' "$log"
}

if [ "${1-}" = --inside ]; then
  shift
  inside "$@"
  exit
fi

cd "$(dirname "$0")/.."
vm=${VM:-$PWD/../shared/vm}
[ -x "$vm/run" ] || { echo "no $vm/run: set VM to the folder shared/vm, which makes and boots the guest" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "needs root, to make the guest" >&2; exit 2; }
[ $# -gt 0 ] || set -- "${PARTS[@]}"
"$vm/build"
build "$@"
log=$PWD/.cache/vm/log
echo "running in the guest: $*; everything is written to $log"
"$vm/run" --kernel "${KERNEL:-stable}" --share "$PWD" --timeout 3000 -- /bin/bash /project/e2e/vm.sh --inside "$@" 2>&1 | tee "$log" | grep --line-buffered -E '^(== |---|panic:)' || true
summary "$@"

#!/bin/bash
# Tests Troupe in a Debian guest (shared/vm) with systemd as process 1, cgroup v2
# alone and AppArmor on. Usage: vm.sh [PART...]; a PART is one of
#   vm       the units installed as on a node, the systemd cgroup manager (e2e/vm)
#   critest  critest's AppArmor cases
#   reboot   what a kubelet sees after one: two boots on one disk (e2e/vm)
#   power    power is cut 50 times during pulls (e2e/power); POWER= are its options, e.g. '-cuts 200 -seed 7'
#   e2e      the end-to-end tests that a cgroup, a user namespace or AppArmor may change
#   cgroups namespaces rootfs bundles stats monitor   backends/PART
# KERNELS names the kernels: "stable" is the release's, "new" the newest of
# backports (PIDFD_INFO_EXIT: only with it are exit codes known of containers
# that outlived their monitor). Without PART, those that make a node run: the
# rest is named by who wants it, because the emulated guest takes long. Needs
# root, what `make build tools critest` makes, and shared/vm (VM names another
# place). The last line has the sums.
# VM_TESTS is a regular expression: only these tests of the part vm.
# VM_EXTRA=criu puts CRIU into the guest: without it the tests of checkpoints are skipped. As it
# rebuilds the guest, give it a cache of its own (VM_CACHE).
set -euo pipefail
TAGS=containers_image_openpgp,exclude_graphdriver_btrfs,grpcnotrace
stable=(vm critest reboot)
new=(vm reboot)
others=(power e2e cgroups namespaces rootfs bundles stats monitor)

# What the guest runs of each part. It is emulated and ten times slower than the
# host: left out are tests that repeat something fifty times, or that look at
# nothing a cgroup or systemd could change.
arguments() {
  case $1 in
    monitor) echo "-test.skip FiftyRuns|TwentyContainers|CappedAt16MiB" ;;
    vm) echo "-test.skip AReboot -test.run ${VM_TESTS:-.}" ;;
    before | after) echo "-test.run ^Test${1^}AReboot" ;;
    e2e) echo "-test.run ^Test(ResourcesAreInTheCgroup|AContainerOutOfMemoryIsReportedOOMKilled|PodsSurviveTheDaemonsDeath|AContainerIsResizedInPlace|AResizeThatIsRefused.*|StatsShow.*|ThePodsStats.*|APodInAUserNamespace|AUserNamespaceWith.*|UsersOfAUserNamespace.*|MasksAndReadOnlyPathsHold)$" ;;
    *) ;;
  esac
}

# program and directory are where a part's tests are.
program() { case $1 in before | after | reboot) echo vm ;; *) echo "$1" ;; esac; }
directory() { case $1 in e2e) echo e2e ;; vm) echo e2e/vm ;; critest) echo e2e/critest ;; *) echo "backends/$1" ;; esac; }

inside() { # in the guest, where the project is /project
  export PATH=/project/.cache/vm:$PATH TROUPE_TEST_MONITOR=/project/bin/troupe-monitor TROUPE_TEST_SLOWNESS=10
  local part program code
  for part in "$@"; do
    program=$(program "$part") code=0 SECONDS=0
    echo "== $part"
    cd "/project/$(directory "$program")"
    if [ "$part" = critest ]; then
      # It loads its profiles by sudo, which the guest has not, being root already.
      printf '#!/bin/sh\nexec "$@"\n' >/usr/local/bin/sudo
      chmod 0755 /usr/local/bin/sudo
      critest-run -focus AppArmor -parallel 0 -out /var/tmp/critest 2>&1 || { code=$?; cat /var/tmp/critest/*.log; }
    else
      # shellcheck disable=SC2046 # the arguments are words
      "/project/.cache/vm/$program.test" -test.v -test.timeout 15m $(arguments "$part") 2>&1 || code=$?
    fi
    echo "== $part ended with $code after $SECONDS s"
  done
}

# build makes real files below .cache/vm: the guest sees only this tree, and
# .cache/tools may be a link out of it. It has no network to install from.
build() {
  mkdir -p .cache/vm
  local part
  for part in $(for part in "$@"; do program "$part"; done | sort -u); do
    case $part in
      critest)
        CGO_ENABLED=0 go build -trimpath -tags "$TAGS" -o .cache/vm/critest-run ./e2e/critest
        CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o .cache/vm/critest-standin ./e2e/critest/standin
        tools critest ginkgo busybox-dynamic ;;
      vm)
        # The same source as another version, for upgrades.
        CGO_ENABLED=0 go build -trimpath -tags "$TAGS" -ldflags '-s -w -X main.version=v99.0.0' -o .cache/vm/newer/troupe ./cmd/troupe
        CGO_ENABLED=1 go build -trimpath -tags seccomp,netgo,osusergo -ldflags '-s -w -extldflags -static -X main.version=v99.0.0' -o .cache/vm/newer/troupe-monitor ./cmd/troupe-monitor ;;&
      *) CGO_ENABLED=0 go test -c -tags "vm,$TAGS" -o ".cache/vm/$part.test" "./$(directory "$part")" ;;
    esac
  done
  tools crictl
  cp "$(command -v docker-registry)" .cache/vm/
}

tools() {
  local name
  for name in "$@"; do cp -L ".cache/tools/bin/$name" .cache/vm/; done
}

guest() { # KERNEL [OPTION...] -- PART...
  local options=()
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  "$vm/run" "${options[@]}" --share "$PWD" --timeout 3000 -- /usr/bin/env VM_TESTS="${VM_TESTS-}" /bin/bash /project/e2e/vm.sh --inside "$@" 2>&1 |
    tee -a "$log" | grep --line-buffered -E '^(== |--- |critest: |(PASS|FAIL|SKIP) .|panic:)' || true
}

disk=troupe-vm-test-$$
cache=${VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/runtime-vm}
drop_disk() { rm -f "$cache/disks/$disk".qcow2*; }

# on runs parts under a kernel.
on() {
  local kernel=$1 part once=() expected=()
  shift
  for part in "$@"; do
    if [ "$part" = reboot ]; then expected+=(before after); else once+=("$part") expected+=("$part"); fi
  done
  log=$PWD/.cache/vm/$kernel.log
  : >"$log"
  echo "kernel $kernel: $*; everything is written to $log"
  [ ${#once[@]} = 0 ] || guest --kernel "$kernel" -- "${once[@]}"
  if [ ${#once[@]} -lt ${#expected[@]} ]; then
    drop_disk
    guest --kernel "$kernel" --keep-disk "$disk" -- before
    guest --kernel "$kernel" --keep-disk "$disk" -- after
    drop_disk
  fi
  summarize "$kernel" "${expected[@]}" >>.cache/vm/summary
}

# cut_power runs on the host: its guests are smaller than shared/vm's, which
# lends the kernel and its modules.
cut_power() {
  local log=$PWD/.cache/vm/power.log code=0
  echo "power; everything is written to $log"
  CGO_ENABLED=0 go build -trimpath -tags "$TAGS" -ldflags '-s -w' -o .cache/vm/power ./e2e/power
  # shellcheck disable=SC2086 # the options are words
  .cache/vm/power -cache "$cache" -kernel "${1:-stable}" -out .cache/vm ${POWER-} 2>&1 | tee "$log" || code=$?
  sed -n 's/^cut [0-9]*, .*: ok$/passed/p; s/^FAIL /failed power /p' "$log" >>.cache/vm/summary
  [ "$code" = 0 ] || grep -q '^FAIL' "$log" || echo "failed power itself: exit status $code" >>.cache/vm/summary
}

# summarize reads a log: every test once, with its first complaint, and a part
# that ended in another way than by a failed test (a panic, a crash of the
# guest) as one that failed. Its lines are "passed", "skipped WHAT" or "failed WHAT".
summarize() {
  awk -v kernel="$1" -v parts="${*:2}" '
    function item(how, name, reason) { print how " " part " " name " (kernel " kernel ")" (reason == "" ? "" : ": " reason) }
    /^== [a-z0-9]+$/ { part = $2 }
    /^== [a-z0-9]+ ended with / { ended[$2] = 1; if ($5 != 0 && !bad[$2]) item("failed", "itself", "exit status " $5); part = "" }
    /^=== RUN / { why = "" }
    /^ +[^ ]+\.go:[0-9]+: / && why == "" { why = $0; sub(/^ +[^ ]+\.go:[0-9]+: /, "", why) }
    /^--- PASS: / { print "passed" }
    /^--- SKIP: / { item("skipped", $3, why); why = "" }
    /^--- FAIL: / && part != "critest" { bad[part] = 1; item("failed", $3, why); why = "" }
    part == "critest" && /^FAIL ./ { bad[part] = 1; item("failed", substr($0, 6)) }
    part == "critest" && /^SKIP ./ { item("skipped", substr($0, 6)) }
    part == "critest" && /^critest: [0-9]+ passed/ { for (i = 0; i < $2; i++) print "passed" }
    END {
      n = split(parts, all, " ")
      for (i = 1; i <= n; i++) if (!ended[all[i]]) { part = all[i]; item("failed", "itself", "did not get to its end") }
    }' "$log"
}

# main is one command, so that an edit of this file does not reach a run that is under way.
main() {
  if [ "${1-}" = --inside ]; then
    shift
    inside "$@"
    exit
  fi
  cd "$(dirname "$0")/.."
  vm=${VM:-$PWD/../shared/vm}
  [ -x "$vm/run" ] || { echo "no $vm/run: set VM to the folder shared/vm, which makes and boots the guest" >&2; exit 2; }
  [ "$(id -u)" = 0 ] || { echo "needs root, to make the guest" >&2; exit 2; }
  local part kernel passed failed guests=() power=
  for part in "$@"; do
    [[ " ${stable[*]} ${others[*]} " == *" $part "* ]] || { echo "no part $part; there are: ${stable[*]} ${others[*]}" >&2; exit 2; }
    if [ "$part" = power ]; then power=1; else guests+=("$part"); fi
  done
  "$vm/build"
  mkdir -p .cache/vm
  rm -f .cache/vm/summary
  trap drop_disk EXIT
  if [ $# = 0 ] || [ ${#guests[@]} -gt 0 ]; then
    build "${guests[@]:-${stable[@]}}"
    for kernel in ${KERNELS:-stable new}; do
      declare -n usual=$kernel
      on "$kernel" "${guests[@]:-${usual[@]}}"
    done
  fi
  kernel=${KERNELS-}
  [ -z "$power" ] || cut_power "${kernel%% *}" # one is enough: it is the store that is tested
  grep -v '^passed$' .cache/vm/summary || true
  passed=$(grep -c '^passed$' .cache/vm/summary || true) failed=$(grep -c '^failed ' .cache/vm/summary || true)
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
  exit
}

main "$@"

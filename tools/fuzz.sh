#!/bin/sh
# Runs every fuzz target for FUZZTIME (60s) each, or those that match TARGETS,
# and lists what came of it. An input that fails is kept in testdata/fuzz of its
# package, where `make test` tries it again. As root.
set -u
pure=$1 monitor=$2
time=${FUZZTIME:-60s}
logs=.cache/fuzz
targets=0 findings=0 executions=0
mkdir -p "$logs"
# The inputs make many small files: not on the disk.
TMPDIR=$(mktemp -d /dev/shm/troupe-fuzz.XXXXXX) || exit 1
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
for file in $(grep -rl --include='*_test.go' '^func Fuzz' backends cmd cri messages supervisor | sort); do
  for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' "$file" | grep -E "${TARGETS:-.}"); do
    package=./$(dirname "$file")
    log=$logs/$target.log
    tags=$pure cgo=0
    case $package in ./cmd/troupe-monitor*) tags=$monitor cgo=1 ;; esac
    targets=$((targets + 1))
    if CGO_ENABLED=$cgo go test -tags "$tags" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 20x -timeout 30m "$package" > "$log" 2>&1; then
      result=ok
    else
      result="FAILED, see $log" findings=$((findings + 1))
    fi
    executed=$(grep -o 'execs: [0-9]*' "$log" | tail -1 | cut -d' ' -f2)
    executions=$((executions + ${executed:-0}))
    printf '%-18s %-26s %s; %s executions\n' "$target" "$package" "$result" "${executed:-0}"
  done
done
echo "fuzz: $targets targets, $executions executions, $findings findings"
[ "$findings" = 0 ]

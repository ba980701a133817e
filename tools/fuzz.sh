#!/bin/sh
# Runs every fuzz target for FUZZTIME (60s) each, or those that match TARGETS,
# and lists what came of it. An input that fails is kept in testdata/fuzz of its
# package, where `make test` tries it again. As root.
set -u
tags=$1
time=${FUZZTIME:-60s}
logs=.cache/fuzz
failed=0
mkdir -p "$logs"
# The inputs make many small files: not on the disk.
TMPDIR=$(mktemp -d /dev/shm/troupe-fuzz.XXXXXX) || exit 1
export TMPDIR CGO_ENABLED=0
trap 'rm -rf "$TMPDIR"' EXIT
for file in $(grep -rl --include='*_test.go' '^func Fuzz' backends cri messages | sort); do
  for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' "$file" | grep -E "${TARGETS:-.}"); do
    package=./$(dirname "$file")
    log=$logs/$target.log
    if go test -tags "$tags" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 20x -timeout 30m "$package" > "$log" 2>&1; then
      result=ok
    else
      result="FAILED, see $log" failed=$((failed + 1))
    fi
    printf '%-18s %-20s %s; %s\n' "$target" "$package" "$result" \
      "$(grep -o 'execs: [0-9]*.*' "$log" | tail -1)"
  done
done
echo "$failed targets found something"
[ "$failed" = 0 ]

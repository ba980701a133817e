#!/bin/bash
# gofumpt, go vet and staticcheck over both halves of the project (pure Go, and
# the monitor with cgo), govulncheck where its database can be reached.
# usage: lint.sh PURE_TAGS MONITOR_TAGS
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.cache/tools/bin
pure=$1,kubelet monitor=$2 # the tag of tests that no other run compiles, too
failed=0

mapfile -t files < <(git ls-files --cached --others --exclude-standard '*.go' ':!*.pb.go')
unformatted=$("$bin/gofumpt" -l "${files[@]}")
if [ -n "$unformatted" ]; then
  printf 'lint: run gofumpt -w on:\n%s\n' "$unformatted"
  failed=1
fi

mapfile -t packages < <(CGO_ENABLED=0 go list -tags "$pure" ./... | grep -v /cmd/troupe-monitor)
CGO_ENABLED=0 go vet -tags "$pure" "${packages[@]}" || failed=1
CGO_ENABLED=0 "$bin/staticcheck" -tags "$pure" "${packages[@]}" || failed=1
CGO_ENABLED=1 go vet -tags "$monitor" ./cmd/troupe-monitor/... || failed=1
CGO_ENABLED=1 "$bin/staticcheck" -tags "$monitor" ./cmd/troupe-monitor/... || failed=1

(cd cmd/troupe-monitor/libseccomp && CGO_ENABLED=1 go vet . && CGO_ENABLED=1 ../../../"$bin/staticcheck" .) || failed=1

if out=$(timeout 300 "$bin/govulncheck" -tags "$pure" ./cmd/troupe 2>&1); then
  echo "lint: govulncheck found nothing"
elif grep -qiE 'vuln\.go\.dev|fetching vulnerabilities|no such host|connection refused|dial tcp|proxyconnect' <<<"$out"; then
  echo "lint: govulncheck skipped: database unreachable"
else
  printf '%s\n' "$out"
  failed=1
fi
[ $failed = 0 ] && echo "lint: ok"
exit $failed

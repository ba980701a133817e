#!/bin/bash
# Builds one group of tools (crictl, critest, peers, kubelet or lint) at the
# versions its go.mod pins, into .cache/tools/bin.
set -euo pipefail
cd "$(dirname "$0")"
bin=$PWD/../.cache/tools/bin
mkdir -p "$bin"

# build [cgo] NAME PACKAGE [go build flags…]
build() {
  local cgo=0
  if [ "$1" = cgo ]; then cgo=1; shift; fi
  local name=$1 package=$2
  shift 2
  echo "tools: building $name"
  CGO_ENABLED=$cgo go build -trimpath "$@" -o "$bin/$name" "$package"
}
version() { go list -m -f '{{.Version}}' "$1"; }

case $1 in
crictl)
  cd crictl
  build crictl sigs.k8s.io/cri-tools/cmd/crictl \
    -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$(version sigs.k8s.io/cri-tools)"
  ;;
critest)
  # Debian's busybox-static has a shell that runs its commands without looking
  # for their files, which critest masks; this one looks. The two packages
  # exclude each other, so it is only unpacked.
  if [ ! -x "$bin/busybox-dynamic" ]; then
    echo "tools: fetching Debian's busybox"
    unpack=$(mktemp -d)
    trap 'rm -rf "$unpack"' EXIT
    fetch() { (cd "$unpack" && apt-get -qq -o APT::Sandbox::User=root download busybox); }
    fetch || { apt-get update -qq && fetch; }
    dpkg-deb -x "$unpack"/busybox_*.deb "$unpack"
    install "$unpack/bin/busybox" "$bin/busybox-dynamic"
  fi
  cd crictl
  build ginkgo github.com/onsi/ginkgo/v2/ginkgo -ldflags '-s -w'
  echo "tools: building critest"
  CGO_ENABLED=0 go test -c -trimpath -o "$bin/critest" \
    -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$(version sigs.k8s.io/cri-tools)" \
    sigs.k8s.io/cri-tools/cmd/critest
  ;;
peers)
  cd peers
  v2=github.com/containerd/containerd/v2
  build cgo runc github.com/opencontainers/runc -tags seccomp,netgo,osusergo -ldflags '-s -w -extldflags -static'
  build containerd-shim-runc-v2 $v2/cmd/containerd-shim-runc-v2 -ldflags '-s -w'
  # Last: its file is what make looks at.
  build containerd $v2/cmd/containerd -tags no_btrfs,no_devmapper,no_zfs \
    -ldflags "-s -w -X $v2/version.Version=$(version $v2)"
  ;;
kubelet)
  cd kubelet
  k=k8s.io/kubernetes/cmd
  # Without the stamp they say v0.0.0, and their versions are compared.
  stamp="-s -w -X k8s.io/component-base/version.gitVersion=$(version k8s.io/kubernetes) -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"
  build etcd go.etcd.io/etcd/server/v3 -ldflags '-s -w'
  build kubectl $k/kubectl -ldflags "$stamp"
  build kube-apiserver $k/kube-apiserver -ldflags "$stamp"
  # Last: its file is what make looks at.
  build kubelet $k/kubelet -ldflags "$stamp"
  ;;
lint)
  cd lint
  build gofumpt mvdan.cc/gofumpt -ldflags '-s -w'
  build govulncheck golang.org/x/vuln/cmd/govulncheck -ldflags '-s -w'
  build staticcheck honnef.co/go/tools/cmd/staticcheck -ldflags '-s -w'
  ;;
*)
  echo "usage: $0 crictl|critest|peers|kubelet|lint" >&2
  exit 2
  ;;
esac

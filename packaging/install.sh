#!/bin/bash
# Installs what `make build` made. Usage: install.sh DESTDIR PREFIX
# Files below /etc that are there already are left alone.
set -euo pipefail
cd "$(dirname "$0")"
dest=${1-} prefix=${2:-/usr/local}
root=$dest$prefix

install -D -m 0755 -t "$root/bin" ../bin/troupe ../bin/troupe-sim
install -D -m 0755 -t "$root/libexec/troupe" ../bin/troupe-monitor
for unit in troupe.service troupe-monitor.service; do
  mkdir -p "$root/lib/systemd/system"
  sed "s#@BINDIR@#$prefix/bin#g" "$unit" > "$root/lib/systemd/system/$unit"
  chmod 0644 "$root/lib/systemd/system/$unit"
done
install -D -m 0644 sysctl.conf "$root/lib/sysctl.d/60-troupe.conf"
install -D -m 0644 modules-load.conf "$root/lib/modules-load.d/troupe.conf"

keep() { # keep MODE FROM TO
  if [ -e "$dest$3" ]; then
    echo "kept $dest$3"
  else
    install -D -m "$1" "$2" "$dest$3"
  fi
}
keep 0644 troupe.conf /etc/troupe/troupe.conf
keep 0644 crictl.yaml /etc/crictl.yaml
mkdir -p "$dest/etc/troupe/troupe.conf.d"

if [ -z "$dest" ]; then
  echo "installed; now: systemctl daemon-reload && systemctl restart systemd-modules-load systemd-sysctl && systemctl enable --now troupe"
  echo "kubelet: --container-runtime-endpoint=unix:///run/troupe/troupe.sock"
fi

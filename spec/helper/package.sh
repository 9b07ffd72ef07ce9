#!/bin/sh
# Installs a Debian package of tarn in a bare Debian, runs the demo there as a user without rights, removes it, and looks at what is left.
#   usage: package.sh PACKAGE.deb DIRECTORY
# The bare system is debootstrap's minbase of the release that runs here. It is made once, in DIRECTORY; every run gets a copy, and a mount and pid
# namespace that ends with it. That needs root and a Debian mirror: without them the package is unpacked, and the demo run from where it then lies.
set -eu

deb=$(realpath "$1")
mkdir -p "$2"
dir=$(realpath "$2")
root=$dir/root

say() { printf 'package: %s\n' "$*" >&2; }
clean() { rm -rf --one-file-system "$root"; }
trap clean EXIT
trap 'exit 130' INT TERM
clean

unpacked() {
  say "$1: unpacking it instead, beside this system's own libraries"
  dpkg-deb -x "$deb" "$root"
  (cd "$root" && "$root/usr/bin/tarn" "$root/usr/share/tarn/examples/flights.lua" >"$dir/demo.log")
  say "the demo ran from the unpacked package; that it can be installed and removed has not been seen"
  exit 0
}

[ "$(id -u)" -eq 0 ] || unpacked "not root"
mirror=$(sed -n 's/^URIs: *\(.*\/debian\)\/*$/\1/p; s/^deb \(\[[^]]*\] \)\?\([^ ]*\/debian\)\/* .*/\2/p' \
  /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1)
[ -n "$mirror" ] || unpacked "apt's sources name no Debian mirror"
unshare --mount --pid --fork true 2>/dev/null || unpacked "no namespaces"

base=$dir/base
if [ ! -d "$base" ]; then
  say "making a bare Debian in $base"
  rm -rf --one-file-system "$base.part"
  # shellcheck disable=SC1091
  debootstrap --variant=minbase "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$base.part" "$mirror" >"$base.log" 2>&1 || {
    tail -n 3 "$base.log" >&2
    unpacked "debootstrap failed"
  }
  mv "$base.part" "$base"
fi
cp -a "$base" "$root"
cp /etc/resolv.conf /etc/hosts "$root/etc/"
cp -n /etc/apt/apt.conf.d/*proxy* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
cp "$deb" "$root/tmp/tarn.deb"

cat >"$root/tmp/try" <<'END'
set -eu
apt="apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
apt-get -qq update
$apt install /tmp/tarn.deb >/dev/null
mkdir -m 1777 /tmp/work
cd /tmp/work
as_nobody="setpriv --reuid=nobody --regid=nogroup --clear-groups"
$as_nobody tarn -v
$as_nobody tarn /usr/share/tarn/examples/flights.lua
$apt purge tarn >/dev/null
rm -r /tmp/work
left=$(find / -xdev -name '*tarn*' ! -path '/tmp/*' ! -path '/proc/*' ! -path '/var/log/*')
[ -z "$left" ] || { echo "left behind: $left" >&2; exit 1; }
END
say "installing, running and removing it in a bare Debian"
# shellcheck disable=SC2016 # the inner shell expands it
unshare --mount --pid --fork --kill-child sh -eu -c '
  mount -t proc proc "$1/proc"
  mount --rbind /dev "$1/dev"
  exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root http_proxy="${http_proxy:-}" https_proxy="${https_proxy:-}" chroot "$1" sh /tmp/try' \
  sh "$root" >"$dir/demo.log" || {
  tail -n 20 "$dir/demo.log" >&2
  say "failed"
  exit 1
}
say "installed, ran, removed; the demo's output: $dir/demo.log"

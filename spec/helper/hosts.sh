#!/bin/bash
# Hosts made of namespaces: hosts.sh ROOT CONF NAME... Run in a network namespace of its own (unshare -n), which becomes the place of the
# driver: 10.77.0.1, fd77::1. Each NAME gets a host name, an address (10.77.0.11, ...; fd77::11, ...), a /tmp, a /run and a home of its own,
# in which only ROOT (the source tree) and CONF (keys and configurations) are those of the machine, and an sshd. Prints "ready", then
# "PID NAME" of the process that keeps each host there; all go with standard input's end.
set -eu
root=$1 conf=$2
shift 2

ip link set lo up
ip link add br0 type bridge
ip addr add 10.77.0.1/24 dev br0
ip -6 addr add fd77::1/64 dev br0 nodad 2>/dev/null || true
ip link set br0 up

# In the host's namespaces. What ROOT and CONF hide behind the new /tmp is moved into it.
# shellcheck disable=SC2016 # expanded there
host='
  set -eu
  root=$1 conf=$2 name=$3
  hostname "$name"
  mount --bind "$root" /mnt
  mount --bind "$conf" /media
  mount -t tmpfs -o mode=1777 tmpfs /tmp
  mount -t tmpfs tmpfs /run
  mount -t tmpfs tmpfs "$HOME"
  mkdir -p /run/sshd "$root" "$conf"
  mount --move /mnt "$root"
  mount --move /media "$conf"
  read -r _ # the address is there
  ip link set lo up
  exec setpriv --pdeathsig KILL /usr/sbin/sshd -D -f "$conf/sshd_config" -E "$conf/log-$name"
'
pids="" names="" i=0
for name in "$@"; do
  i=$((i + 1))
  fifo=$conf/go-$name
  mkfifo "$fifo"
  unshare -mun bash -c "$host" host "$root" "$conf" "$name" <"$fifo" &
  pid=$!
  exec 4>"$fifo"
  until [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.005; done
  ip link add "v$i" type veth peer name eth0 netns "$pid"
  ip link set "v$i" master br0 up
  nsenter -t "$pid" -n ip addr add "10.77.0.1$i/24" dev eth0
  nsenter -t "$pid" -n ip -6 addr add "fd77::1$i/64" dev eth0 nodad 2>/dev/null || true
  nsenter -t "$pid" -n ip link set eth0 up
  echo >&4
  exec 4>&-
  pids="$pids $pid" names="$names $pid:$name"
done
i=0
for name in "$@"; do
  i=$((i + 1))
  until (exec 5<>"/dev/tcp/10.77.0.1$i/22") 2>/dev/null; do sleep 0.01; done
done
echo ready
for pair in $names; do echo "${pair%%:*} ${pair#*:}"; done
cat >/dev/null
# shellcheck disable=SC2086
kill $pids 2>/dev/null || true # a spec may have done so
wait

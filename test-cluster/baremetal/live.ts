/** What the installer's medium is, after its early boot. */
import { hostsHole, programsHole } from "./programs.ts";

/** Flags of V8 under an emulated processor: code that it compiles is translated once more by the emulator. */
export const emulatedFlags = "--no-opt,--no-sparkplug,--no-maglev,--single-threaded-gc";

/** Shell functions that the medium and an installed system share. */
export const shellParts = String.raw`
export DENO_NO_UPDATE_CHECK=1 NO_COLOR=1 HOME=/root DENO_DIR=/run/deno
grep -q 'QEMU TCG' /proc/cpuinfo && export DENO_V8_FLAGS=${emulatedFlags}
# host:port of an address, with the port that its scheme stands for.
host_of() {
  echo "$1" | sed -n 's,^\(https\?\)://\([^/?#@]*\).*$,\1 \2,p' | {
    read -r scheme host || exit 0
    case "$host" in *:*) echo "$host" ;; *) [ "$scheme" = https ] && echo "$host:443" || echo "$host:80" ;; esac
  }
}
# Becomes a component under exactly the flags of its manifest; $2 is put where the machine's own hosts belong.
component() {
  name=$1 hosts=$2; shift 2
  set -f
  IFS='
'
  set -- $(sed "s|${hostsHole}|$hosts|; s|${programsHole}|$programs|g" "$programs/$name.flags") "$programs/$name.js" "$@"
  unset IFS
  set +f
  exec "$deno" run "$@"
}
# An address by DHCP on every network card there is; the first answer is enough.
network() {
  ip link set lo up
  for card in /sys/class/net/e*; do
    [ -e "$card" ] || continue
    card=$(basename "$card")
    ip link set "$card" up
    udhcpc -i "$card" -n -q -t 10 -T 1 -S -s "$1" >/dev/null 2>&1 && return 0
  done
  echo "no network card has got an address"
}
`;

/** Called by udhcpc with the lease in the environment. */
export const dhcpScript = String.raw`#!/usr/bin/busybox sh
case "$1" in
  bound | renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/${"$"}{mask:-24}" dev "$interface"
    for gateway in $router; do ip route replace default via "$gateway" dev "$interface"; break; done
    : >/run/resolv.conf
    for server in $dns; do echo "nameserver $server" >>/run/resolv.conf; done
    ;;
esac
exit 0
`;

/** Process 1 of the installer. */
export const liveInit = String.raw`#!/usr/bin/busybox sh
export PATH=/usr/sbin:/usr/bin
mount -t sysfs sysfs /sys
mount -t efivarfs efivarfs /sys/firmware/efi/efivars 2>/dev/null
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p /dev/pts /dev/shm /run/deno /run/ultracloud/installer /var/lib/ultracloud/installer /root
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
exec </dev/console >/dev/console 2>&1
deno=/ultracloud/deno programs=/ultracloud
${shellParts}
/usr/lib/systemd/systemd-udevd --daemon
udevadm trigger --action=add
udevadm settle --timeout=20
network /ultracloud/dhcp
word() { sed -n "s/.*\(^\| \)ultracloud\.$1=\([^ ]*\).*/\2/p" /proc/cmdline; }
deployer=$(host_of "$(word deployer_url)")
authority=$(host_of "$(word ca_cert_url)")
hosts=$(echo "${"$"}{deployer:-10.0.2.2:7152},$authority" | sed 's/,$//')
echo "installer: up after $(cut -d ' ' -f 1 /proc/uptime) s, may reach $hosts"
while :; do
  (component installer "$hosts" --config /ultracloud/installer.toml)
  code=$?
  [ "$code" = 0 ] && sleep 60
  echo "installer: ended with $code; again in 10 s"
  sleep 10
done
`;

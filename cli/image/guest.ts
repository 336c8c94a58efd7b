import type { CpioEntry } from "./cpio.ts";
import { utf8 } from "@ultracloud/base";

/** Kernel modules the guest needs; those built into the kernel at hand are skipped. */
export const guestModules = [
  "virtio_pci",
  "virtio_net",
  "virtio_blk",
  "virtio_rng",
  "nls_cp437",
  "nls_ascii",
  "nls_iso8859-1",
  "nls_utf8",
  "isofs",
  "vfat",
  "evdev",
  "button",
] as const;

/** Kernel command line: serial console, quiet, restart after a panic, `eth0` names. */
export const guestCmdline = "console=ttyS0 quiet loglevel=4 panic=5 net.ifnames=0 random.trust_cpu=on";

const init = String.raw`#!/bin/busybox sh
# PID 1: brings the guest up, then keeps a login on the serial line.
export PATH=/bin:/sbin HOME=/root TERM=vt100
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /root /data /seed /www /sbin
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev 2>/dev/null
/bin/busybox mount -t tmpfs -o mode=1777,size=16m tmpfs /tmp
/bin/busybox --install -s /bin
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
exec </dev/console >/dev/console 2>&1

for module in $(cat /etc/modules); do
  insmod "/lib/modules/$module.ko" 2>/dev/null
done

# Power button of ACPI: every event of that device is a press.
for device in /sys/class/input/event*; do
  [ "$(cat "$device/device/name" 2>/dev/null)" = "Power Button" ] || continue
  (
    dd if="/dev/input/$(basename "$device")" of=/dev/null bs=24 count=1 2>/dev/null
    exec /sbin/uc-poweroff
  ) &
done

# NoCloud seed: a disk labelled cidata, known by its meta-data file.
hostname=tiny
instance=none
seed=
for disk in /dev/vd?; do
  [ -b "$disk" ] || continue
  mount -t iso9660 -o ro "$disk" /seed 2>/dev/null || mount -t vfat -o ro "$disk" /seed 2>/dev/null || continue
  if [ -f /seed/meta-data ]; then
    seed=$disk
    break
  fi
  umount /seed
done
field() {
  sed -n "s/^$1:[[:space:]]*//p" "$2" 2>/dev/null | head -n 1 | tr -d "\"'\r"
}
if [ -n "$seed" ]; then
  value=$(field local-hostname /seed/meta-data)
  [ -n "$value" ] && hostname=$value
  value=$(field instance-id /seed/meta-data)
  [ -n "$value" ] && instance=$value
  if head -n 1 /seed/user-data 2>/dev/null | grep -q '^#cloud-config'; then
    value=$(field hostname /seed/user-data)
    [ -n "$value" ] && hostname=$value
  fi
fi
hostname "$hostname"
echo "$hostname" >/etc/hostname
printf '127.0.0.1 localhost %s\n' "$hostname" >/etc/hosts

# The first disk that is blank or ours keeps /data over restarts.
for disk in /dev/vd?; do
  [ -b "$disk" ] && [ "$disk" != "$seed" ] || continue
  if ! mount -t ext4 -o noatime "$disk" /data 2>/dev/null; then
    blank=$(dd if="$disk" bs=65536 count=1 2>/dev/null | tr -d '\000' | wc -c)
    [ "$blank" = 0 ] || continue
    mke2fs -F -i 65536 -m 0 -L data "$disk" >/dev/null 2>&1 && mount -t ext4 -o noatime "$disk" /data || continue
  fi
  break
done
boots=$(cat /data/boots 2>/dev/null || echo 0)
boots=$((boots + 1))
echo "$boots" >/data/boots && sync

ip link set lo up
metric=0
for device in /sys/class/net/eth*; do
  [ -e "$device" ] || continue
  device=$(basename "$device")
  ip link set "$device" up
  METRIC=$metric udhcpc -i "$device" -b -t 8 -T 1 -S -s /etc/udhcpc -x "hostname:$hostname" >/dev/null 2>&1
  metric=$((metric + 10))
done
address=$(ip -4 -o addr show dev eth0 2>/dev/null | sed -n 's/.* inet \([0-9.]*\).*/\1/p' | head -n 1)

cat >/www/index.html <<PAGE
<!doctype html>
<title>$hostname</title>
<h1>$hostname</h1>
<p>hostname: $hostname</p>
<p>instance: $instance</p>
<p>address: $address</p>
<p>boots: $boots</p>
<p>A tiny guest of UltraCloud.</p>
PAGE
printf '{"hostname":"%s","instance":"%s","address":"%s","boots":%s}\n' \
  "$hostname" "$instance" "$address" "$boots" >/www/status.json
httpd -p 80 -h /www

if head -n 1 /seed/user-data 2>/dev/null | grep -q '^#!'; then
  cp /seed/user-data /run/user-data && chmod 700 /run/user-data
  (
    /run/user-data
    echo "ULTRACLOUD_USER_DATA_DONE code=$?"
  ) </dev/null &
fi

echo "ULTRACLOUD_GUEST_READY hostname=$hostname ip=$address instance=$instance boots=$boots"

# PID 1 reaps orphans while it waits for the login to end.
while :; do
  getty -L 115200 ttyS0 vt100
  sleep 1
done
`;

const powerOff = String.raw`#!/bin/busybox sh
# Ends the guest in order: what is on /data first.
echo ULTRACLOUD_GUEST_STOPPING >/dev/console
sync
umount /data 2>/dev/null || mount -o remount,ro /data 2>/dev/null
exec /bin/busybox poweroff -f
`;

const dhcpScript = String.raw`#!/bin/busybox sh
# Called by udhcpc with the lease in the environment.
case "$1" in
  deconfig)
    ip addr flush dev "$interface"
    ;;
  bound | renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/\${mask:-24}" dev "$interface"
    [ -n "$mtu" ] && ip link set "$interface" mtu "$mtu"
    for gateway in $router; do
      ip route replace default via "$gateway" dev "$interface" metric "\${METRIC:-0}"
      break
    done
    : >/etc/resolv.conf
    for server in $dns; do
      echo "nameserver $server" >>/etc/resolv.conf
    done
    ;;
esac
exit 0
`.replaceAll("\\${", "${");

const issue = "\nUltraCloud tiny guest. Log in as `guest`, no password.\n\n";
const motd = "Unprivileged shell; root logs in nowhere. Give user data that starts with #! to run a script as root.\n";

/** The root file system around busybox and the modules, in the order of the archive. */
export function guestTree(busybox: Uint8Array, modules: readonly { name: string; data: Uint8Array }[]): CpioEntry[] {
  const dirs = ["bin", "dev", "etc", "home", "lib", "lib/modules", "sbin"];
  const file = (path: string, text: string, mode = 0o644): CpioEntry => ({
    kind: "file",
    path,
    data: utf8.encode(text),
    mode,
  });
  return [
    ...dirs.map((path): CpioEntry => ({ kind: "dir", path })),
    // The kernel opens /dev/console before devtmpfs is mounted.
    { kind: "char", path: "dev/console", major: 5, minor: 1 },
    { kind: "file", path: "bin/busybox", data: busybox, mode: 0o755 },
    file("init", init, 0o755),
    file("sbin/uc-poweroff", powerOff, 0o755),
    file("etc/udhcpc", dhcpScript, 0o755),
    file("etc/passwd", "root:*:0:0:root:/root:/bin/sh\nguest::1000:1000:guest:/tmp:/bin/sh\n"),
    file("etc/group", "root:x:0:\nguest:x:1000:\n"),
    file("etc/shells", "/bin/sh\n"),
    file("etc/issue", issue),
    file("etc/motd", motd),
    file("etc/modules", modules.map((module) => module.name + "\n").join("")),
    ...modules.map((module): CpioEntry => ({
      kind: "file",
      path: `lib/modules/${module.name}.ko`,
      data: module.data,
    })),
  ];
}

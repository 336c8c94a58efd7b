/** What runs before a root is there: process 1 of the initramfs, of the installer's medium and of an installed disk. */

/** Label of the installer's medium; the installer refuses to write what carries it. */
export const mediumLabel = "UCISO";

/** On the kernel's command line: only say that a kernel comes up here. */
export const probeWord = "ultracloud-probe";

const begin = String.raw`#!/bin/busybox sh
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /run /new
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
exec </dev/console >/dev/console 2>&1
if grep -q ${probeWord} /proc/cmdline; then
  echo "${probeWord} is up"
  poweroff -f
fi
for module in $(cat /etc/modules); do insmod "/lib/modules/$module.ko" 2>/dev/null; done
word() { sed -n "s/.*\(^\| \)$1=\([^ ]*\).*/\2/p" /proc/cmdline; }
# A process 1 that ends makes the kernel panic, and panic= restarts the machine: nothing hangs.
fail() { echo "early boot: $1"; sleep 3; exit 1; }
leave() {
  umount /sys
  mount -o move /proc /new/proc
  mount -o move /dev /new/dev
  exec switch_root /new "$1"
}
`;

/** Finds the medium, and puts a memory over its packed root. */
export const mediumInit = begin + String.raw`
medium=
for try in $(seq 1 150); do
  medium=$(findfs LABEL=${mediumLabel} 2>/dev/null) && break
  sleep 0.2
done
[ -n "$medium" ] || fail "no medium with the label ${mediumLabel}"
mkdir -p /medium /packed /memory
mount -t iso9660 -o ro "$medium" /medium || fail "the medium $medium cannot be mounted"
mount -t squashfs -o ro,loop /medium/live/root.squashfs /packed || fail "the packed root cannot be mounted"
mount -t tmpfs -o mode=755,size=75% tmpfs /memory
mkdir -p /memory/upper /memory/work
mount -t overlay -o lowerdir=/packed,upperdir=/memory/upper,workdir=/memory/work overlay /new || fail "no overlay"
mkdir -p /new/proc /new/dev /new/sys /new/run /new/tmp
leave /ultracloud/init
`;

/** Mounts the root that the loader's entry names, and starts the system that it names. */
export const diskInit = begin + String.raw`
root=$(word root)
init=$(word init)
[ -n "$root" ] || fail "no root= on the kernel's command line"
device=
for try in $(seq 1 150); do
  device=$(findfs "$root" 2>/dev/null) && break
  sleep 0.2
done
[ -n "$device" ] || fail "no disk has $root"
mount -t ext4 -o noatime "$device" /new || fail "the root $device cannot be mounted"
mkdir -p /new/proc /new/dev /new/sys /new/run /new/tmp
[ -x "/new$init" ] || fail "$init is not there"
leave "$init"
`;

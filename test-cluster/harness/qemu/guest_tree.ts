/** What the harness puts into a node: how it starts, and the names that programs look up. */

/** Kernel modules of a node; those built into the kernel at hand are skipped. */
export const nodeModules = [
  "virtio_pci",
  "virtio_net",
  "virtio_blk",
  "virtio_rng",
  // Guests on taps and bridges of the node.
  "tun",
  "bridge",
  "veth",
] as const;

/**
 * Serial console, `eth0` names, and an end instead of a hang after a panic: QEMU runs with -no-reboot. An emulated timer
 * on a busy host fails the kernel's check of it.
 */
export const nodeCmdline =
  "console=ttyS0 quiet loglevel=4 panic=-1 net.ifnames=0 random.trust_cpu=on mitigations=off no_timer_check";

/** Order of a node's disks: `/dev/vda`, `/dev/vdb` and so on. */
export const diskOrder = ["root", "programs", "seed", "state", "log"] as const;

/** Where things are on a node. */
export const nodePaths = {
  deno: "/usr/bin/deno",
  programs: "/programs",
  agent: "/programs/harness.js",
  seed: "/run/seed.json",
  etc: "/run/etc",
  run: "/run/uc",
  pids: "/run/pids",
  state: "/node",
  log: "/log",
} as const;

/** In the initramfs: loads the drivers and hands over to the root disk. */
export const firstInit = String.raw`#!/bin/busybox sh
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /new
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
exec </dev/console >/dev/console 2>&1
for module in $(cat /etc/modules); do
  insmod "/lib/modules/$module.ko"
done
until mount -t ext4 -o ro,noload /dev/vda /new 2>/dev/null; do sleep 0.1; done
umount /proc
mount -o move /dev /new/dev
exec switch_root /new /sbin/init
`;

/** On the root disk, as process 1. The seed disk says who the node is. */
export const secondInit = String.raw`#!/bin/sh
export PATH=/usr/sbin:/usr/bin HOME=/root DENO_DIR=/node/deno DENO_NO_UPDATE_CHECK=1 NO_COLOR=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t ext4 -o ro,noload /dev/vdb ${nodePaths.programs}
mount -t ext4 -o noatime /dev/vdd ${nodePaths.state}
mount -t ext4 -o noatime,commit=1 /dev/vde ${nodePaths.log}
if [ ! -d /node/deno ]; then
  rm -rf /node/deno.new && cp -r ${nodePaths.programs}/deno /node/deno.new && mv /node/deno.new /node/deno
fi
# An emulator forgets what it knew of a program whenever another runs: turns eight times as long as usual. Longer ones
# make answers late.
mount -t debugfs debugfs /sys/kernel/debug
echo 24000000 >/sys/kernel/debug/sched/latency_ns
echo 6000000 >/sys/kernel/debug/sched/min_granularity_ns
echo 3000000 >/sys/kernel/debug/sched/wakeup_granularity_ns
(umask 077 && tr -d '\000' </dev/vdc >${nodePaths.seed})
field() { sed -n "s/^ *\"$1\": \"\\(.*\\)\",\\{0,1\\}$/\\1/p" ${nodePaths.seed}; }
export DENO_V8_FLAGS="$(field v8Flags)"
hostname "$(field hostname)"
ip link set lo up
ip addr add "$(field address)" dev eth0
ip link set eth0 up
echo "ULTRACLOUD_NODE_UP $(field hostname) $(cut -d ' ' -f 1 /proc/uptime)"
# Process 1 reaps orphans while the agent serves; an agent that ends is started again.
while :; do
  ${nodePaths.deno} run --quiet --no-config --no-prompt -A ${nodePaths.agent} ${nodePaths.seed} &
  wait $!
  echo "ULTRACLOUD_NODE_AGENT_ENDED code=$?"
  sleep 1
done
`;

/** Directories of the root disk; `/bin` and the like are links into `/usr`. */
export const rootDirs = [
  ...["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "proc", "sys", "dev", "run", "tmp", "var", "root"],
  ...[nodePaths.programs, nodePaths.state, nodePaths.log].map((path) => path.slice(1)),
];

export const rootLinks: Readonly<Record<string, string>> = {
  bin: "usr/bin",
  sbin: "usr/sbin",
  lib: "usr/lib",
  lib64: "usr/lib64",
  "var/run": "/run",
  "var/tmp": "/tmp",
};

export const rootTexts: Readonly<Record<string, string>> = {
  "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
  "etc/group": "root:x:0:\n",
  "etc/hosts": "127.0.0.1 localhost\n",
  "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
  "etc/resolv.conf": "",
};

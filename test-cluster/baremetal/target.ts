/** What an installed system is: the scripts in its closure. `@name@` stands for a store path, `@out@` for the system's own. */
import { shellParts } from "./live.ts";

/** Files of the boot loader's entries; the counter of a fresh one allows a single try. */
export const switchScript = String.raw`#!@userland@/usr/bin/busybox sh
# bin/switch-to-configuration: makes this closure the boot default (boot), the running system (test), or both (switch).
set -eu
bb=@userland@/usr/bin/busybox
system=@out@
action=$(test $# -eq 1 && echo "$1" || echo none)
case "$action" in
  boot | switch | test | dry-activate) ;;
  *) echo "wanted boot, switch, test or dry-activate" >&2; exit 64 ;;
esac
[ "$action" = dry-activate ] && exit 0

# Written beside, flushed, then renamed: a power cut leaves the old file or the new one.
put() { $bb cat >"$1.new"; $bb sync; $bb mv "$1.new" "$1"; }
hash_of() { echo "$1" | $bb sed 's,^/nix/store/\([0-9a-z]\{32\}\)-.*$,\1,'; }

boot_default() {
  $bb grep -q ' /boot vfat ' /proc/mounts || { echo "no EFI partition is mounted at /boot" >&2; exit 1; }
  $bb mkdir -p /boot/loader/entries /boot/EFI/BOOT /boot/ultracloud
  device=$($bb awk '$2 == "/" && $1 ~ /^\/dev\// { d = $1 } END { print d }' /proc/mounts)
  # Through its own loader: an installer calls this before there is a /usr.
  uuid=$(@userland@/usr/lib64/ld-linux-x86-64.so.2 --library-path @userland@/usr/lib/x86_64-linux-gnu \
    @userland@/usr/sbin/blkid -s UUID -o value "$device")
  [ -n "$uuid" ] || { echo "the root $device has no UUID" >&2; exit 1; }
  files=/boot/ultracloud/$(hash_of @boot@)
  for name in vmlinuz initrd; do
    [ -e "$files-$name" ] || $bb cat "@boot@/$name" | put "$files-$name"
  done
  $bb cmp -s @boot@/bootx64.efi /boot/EFI/BOOT/BOOTX64.EFI || $bb cat @boot@/bootx64.efi | put /boot/EFI/BOOT/BOOTX64.EFI
  printf 'timeout 0\neditor no\n' | put /boot/loader/loader.conf
  own=uc-$(hash_of "$system")
  entry=/boot/loader/entries/$own.conf
  # One that has booted before is known to boot; any other has one try, after which the loader takes the next entry.
  if [ ! -e "$entry" ]; then $bb rm -f "/boot/loader/entries/$own+"*.conf; entry=/boot/loader/entries/$own+1.conf; fi
  file=/ultracloud/$(hash_of @boot@)
  printf 'title UltraCloud %s\nsort-key uc-a\nversion %s\nlinux %s\ninitrd %s\noptions init=%s/init root=UUID=%s %s\n' \
    "@name@" "@name@" "$file-vmlinuz" "$file-initrd" "$system" "$uuid" "@cmdline@" | put "$entry"
  for other in /boot/loader/entries/uc-*.conf; do
    [ "$other" = "$entry" ] && continue
    # Collected generations cannot be booted any more.
    init=$($bb sed -n 's/^options init=\([^ ]*\).*/\1/p' "$other")
    if [ ! -e "$init" ]; then $bb rm -f "$other"; continue; fi
    $bb sed 's/^sort-key .*/sort-key uc-b/' "$other" | put "$other"
  done
  $bb sync
}

case "$action" in switch | test) @out@/activate ;; esac
case "$action" in switch | boot) boot_default ;; esac
`;

/** Makes the closure's programs those of the running host. */
export const activateScript = String.raw`#!@userland@/usr/bin/busybox sh
set -eu
bb=@userland@/usr/bin/busybox
$bb mkdir -p /etc/nix /run /tmp /var/lib/ultracloud /var/log /root /nix/var/nix/profiles
for name in bin sbin lib lib64; do [ -L "/$name" ] || $bb ln -sfn "usr/$name" "/$name"; done
[ "$($bb readlink /usr || true)" = @userland@/usr ] || $bb ln -sfn @userland@/usr /usr
[ -e /etc/passwd ] || echo 'root:x:0:0:root:/root:/bin/sh' >/etc/passwd
[ -e /etc/group ] || echo 'root:x:0:' >/etc/group
echo '127.0.0.1 localhost' >/etc/hosts
printf 'hosts: files dns\n' >/etc/nsswitch.conf
$bb ln -sfn /run/resolv.conf /etc/resolv.conf
printf 'experimental-features = nix-command\nsubstituters =\nbuild-users-group =\nrequire-sigs = true\n' >/etc/nix/nix.conf
: >/etc/NIXOS
@out@/hooks/activate
$bb ln -sfn @out@ /run/current-system
`;

/** Process 1 of an installed system. */
export const systemInit = String.raw`#!@userland@/usr/bin/busybox sh
bb=@userland@/usr/bin/busybox
$bb mount -t sysfs sysfs /sys
$bb mount -t efivarfs efivarfs /sys/firmware/efi/efivars 2>/dev/null
$bb mount -t tmpfs -o mode=755 tmpfs /run
$bb mount -t tmpfs -o mode=1777 tmpfs /tmp
$bb mkdir -p /dev/pts /dev/shm /boot /run/deno
$bb mount -t devpts devpts /dev/pts
$bb mount -t tmpfs -o mode=1777 tmpfs /dev/shm
exec </dev/console >/dev/console 2>&1
@out@/activate || echo "init: activation failed"
$bb ln -sfn @out@ /run/booted-system
export PATH=/usr/sbin:/usr/bin
deno=@runtime@/deno programs=@runtime@
${shellParts}
export PATH=@runtime@/bin:$PATH
esp=$(findfs LABEL=UCESP)
mount -t vfat -o umask=0077 "$esp" /boot || echo "init: no EFI partition"
mkdir -p /var/lib/ultracloud/bootstrap /var/lib/ultracloud/credentials /var/lib/ultracloud/nix-agent
mkdir -p /run/ultracloud/nix-agent /boot/loader/entries
handover=/var/lib/ultracloud/bootstrap/handover.json
hostname "$(sed -n 's/^ *"hostname": "\(.*\)",*$/\1/p' $handover)"
network @runtime@/dhcp
deployer=$(host_of "$(sed -n 's/^ *"deployer_url": "\(.*\)",*$/\1/p' $handover)")
echo "init: $(hostname) runs @name@ after $(cut -d ' ' -f 1 /proc/uptime) s"
(component install-target "$deployer" --config @runtime@/install-target.toml)
@out@/hooks/booted
(component first-boot-automation "$deployer" --config @runtime@/first-boot-automation.toml)
config=/var/lib/ultracloud/credentials/nix-agent/config.toml
while :; do
  hosts=$(grep -o 'https\{0,1\}://[^"]*' $config | while read -r url; do host_of "$url"; done | tr '\n' ',' | sed 's/,$//')
  component nix-agent "$hosts" --config $config &
  agent=$!
  echo $agent >/run/nix-agent.pid
  wait $agent
  echo "init: nix-agent ended with $?"
  sleep 1
done
`;

/** Stands for systemd's where there is none: the agent knows one word for a restart. */
export const systemctlScript = String.raw`#!/usr/bin/busybox sh
[ "$1" = reboot ] || { echo "wanted reboot" >&2; exit 64; }
sync
umount /boot
mount -o remount,ro / 2>/dev/null
exec busybox reboot -f
`;

# A node of a cluster on a disk of its own, laid out by disko: of the HA control plane, or the trial machine.
{ cluster, node, disk ? "/dev/disk/by-id/virtio-uc-root" }:
{ lib, ... }:
{
  imports = [ ./boot.nix (import ../disks/single.nix { inherit disk; }) ];
  ultracloud = { inherit cluster node; };
  networking.useDHCP = lib.mkDefault true;
  # The initrd finds the disk of a QEMU machine and of most servers.
  boot.initrd.availableKernelModules = [ "virtio_pci" "virtio_blk" "virtio_scsi" "ahci" "nvme" "sd_mod" "usb_storage" ];
}

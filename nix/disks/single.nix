# One disk under UEFI: a boot partition and the rest. disko's words; the disk is named by the install plan.
{ disk ? "/dev/disk/by-id/virtio-uc-control-root" }:
{
  disko.devices.disk.root = {
    type = "disk";
    device = disk;
    content = {
      type = "gpt";
      partitions = {
        esp = {
          # Room for several kernels: one entry per kept generation.
          size = "512M";
          type = "EF00";
          content = { type = "filesystem"; format = "vfat"; mountpoint = "/boot"; mountOptions = [ "umask=0077" ]; };
        };
        root = {
          size = "100%";
          content = { type = "filesystem"; format = "ext4"; mountpoint = "/"; extraArgs = [ "-L" "ucroot" ]; };
        };
      };
    };
  };
}

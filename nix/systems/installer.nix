# What installs a machine, for the ISO and for images of the network alike. It is told what to do by `ultracloud.*`
# parameters of the kernel and by the deployer; disko scripts of the systems it knows are in the image, the systems
# themselves come from the cache.
{ targets }:
{ lib, pkgs, ... }:
let
  inherit (builtins) attrNames concatStringsSep map;
  disko = pkgs.writeShellApplication {
    name = "ultracloud-disko";
    text = ''
      # ultracloud-disko CONFIGURATION DISK ROOT: lays the disk out and mounts it.
      configuration=$1 disk=$2 root=$3
      case "$configuration" in
      ${concatStringsSep "\n" (map (name: let it = targets.${name}.config; in ''
        ${name})
          wanted=${lib.escapeShellArg it.disko.devices.disk.root.device}
          script=${it.system.build.destroyFormatMount}/bin/disko-destroy-format-mount
          ;;'') (attrNames targets))}
        *)
          echo "Cannot lay out $configuration: wanted one of ${concatStringsSep ", " (attrNames targets)}" >&2
          exit 1
          ;;
      esac
      if [ "$disk" != "$wanted" ]; then
        echo "Cannot lay out $disk for $configuration: its layout is for $wanted" >&2
        exit 1
      fi
      if [ "$root" != /mnt ]; then
        echo "Cannot mount below $root: wanted /mnt" >&2
        exit 1
      fi
      exec "$script" --yes-wipe-all-disks
    '';
  };
in
{
  ultracloud.components.installer = {
    enable = true;
    settings = { disko = true; nixosInstall = true; };
  };
  systemd.services.installer = {
    path = [ disko ];
    # Markers are read from the console.
    serviceConfig = { StandardOutput = "journal+console"; StandardError = "journal+console"; };
  };
  boot.kernelParams = [ "console=tty0" "console=ttyS0,115200" ];
}

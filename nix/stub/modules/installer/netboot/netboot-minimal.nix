# The option of a network image that is set.
{ config, lib, pkgs, ... }:
{
  options.netboot.storeContents = lib.mkOption { type = lib.types.listOf lib.types.package; default = [ ]; };
  config.system.build = {
    netbootRamdisk = pkgs.stub "netboot-ramdisk" {
      inherit (config.system.build) toplevel;
      contents = map toString config.netboot.storeContents;
    };
    kernel = pkgs.stub "kernel" { };
    netbootIpxeScript = pkgs.stub "netboot.ipxe" { };
  };
}

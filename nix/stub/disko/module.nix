# GPT disks with plain file systems: what the layouts of nix/disks are made of.
{ config, lib, pkgs, ... }:
let
  inherit (builtins) attrNames concatMap listToAttrs map;
  inherit (lib) mkOption types;
  submodule = options: types.submodule { inherit options; };
  content = submodule {
    type = mkOption { type = types.enum [ "filesystem" ]; };
    format = mkOption { type = types.enum [ "vfat" "ext4" ]; };
    mountpoint = mkOption { type = types.str; };
    mountOptions = mkOption { type = types.listOf types.str; default = [ "defaults" ]; };
    extraArgs = mkOption { type = types.listOf types.str; default = [ ]; };
  };
  partition = submodule {
    size = mkOption { type = types.str; };
    type = mkOption { type = types.str; default = "8300"; };
    priority = mkOption { type = types.int; default = 1000; };
    content = mkOption { type = content; };
  };
  disk = submodule {
    type = mkOption { type = types.enum [ "disk" ]; };
    device = mkOption { type = types.strMatching "/dev/disk/by-id/.+"; };
    destroy = mkOption { type = types.bool; default = true; };
    content = mkOption {
      type = submodule {
        type = mkOption { type = types.enum [ "gpt" ]; };
        partitions = mkOption { type = types.attrsOf partition; };
      };
    };
  };
  disks = config.disko.devices.disk;
  partitions = concatMap (name: map (part: { disk = name; inherit part; spec = disks.${name}.content.partitions.${part}; })
    (attrNames disks.${name}.content.partitions)) (attrNames disks);
in
{
  options.disko.devices.disk = mkOption { type = types.attrsOf disk; default = { }; };
  config = {
    fileSystems = listToAttrs (map ({ disk, part, spec }: {
      name = spec.content.mountpoint;
      value = {
        device = "/dev/disk/by-partlabel/disk-${disk}-${part}";
        fsType = spec.content.format;
        options = spec.content.mountOptions;
      };
    }) partitions);
    system.build.destroyFormatMount = pkgs.stub "disko-destroy-format-mount" { layout = builtins.toJSON disks; };
  };
}

# The companion image of a profile: the installer, booted over the network and kept in memory, with the profile's systems
# in it, so that no cache is needed. A chain loader adds `ultracloud.*` parameters to the kernel's command line.
{ targets }:
{ modulesPath, ... }:
{
  imports = [ "${modulesPath}/installer/netboot/netboot-minimal.nix" (import ./installer.nix { inherit targets; }) ];

  netboot.storeContents = builtins.concatMap
    (name: with targets.${name}.config.system.build; [ toplevel destroyFormatMount ]) (builtins.attrNames targets);
}

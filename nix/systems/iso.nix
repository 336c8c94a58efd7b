# The installer as an image: the same for QEMU, USB and virtual media.
{ targets }:
{ lib, modulesPath, ... }:
{
  imports = [ "${modulesPath}/installer/cd-dvd/installation-cd-minimal.nix" (import ./installer.nix { inherit targets; }) ];

  image.baseName = lib.mkForce "ultracloud";
  # The installer refuses to write to the medium of this label: the machine was started from it.
  isoImage.volumeID = lib.mkForce "UCISO";
  isoImage.storeContents = map (name: targets.${name}.config.system.build.destroyFormatMount) (builtins.attrNames targets);
}

# A host that boots by UEFI from its own disk. The entry of a new generation counts its tries: one that does not come up
# is left for the one before by the loader itself, whatever became of nix-agent.
{ lib, options, ... }:
{
  boot.loader.systemd-boot = {
    enable = true;
    # The boot partition holds few kernels.
    configurationLimit = lib.mkDefault 8;
  }
  # install-target takes the counter away once the system is up. An older nixpkgs has no such option: there nix-agent's
  # own trial is what goes back.
  // lib.optionalAttrs (options.boot.loader.systemd-boot ? bootCounting) {
    bootCounting = { enable = lib.mkDefault true; tries = lib.mkDefault 2; };
  };
  boot.loader.efi.canTouchEfiVariables = lib.mkDefault true;
  boot.kernelParams = [ "console=ttyS0,115200" ];
}

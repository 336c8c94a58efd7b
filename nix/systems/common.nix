# What every host has.
{ config, lib, ... }:
{
  nixpkgs.hostPlatform = lib.mkDefault "x86_64-linux";
  system.stateVersion = lib.mkDefault "26.05";
  networking.firewall.enable = lib.mkDefault true;
  environment.systemPackages = [ config.ultracloud.uc ];
  nix.settings = {
    experimental-features = [ "nix-command" "flakes" ];
    require-sigs = true;
  };
}

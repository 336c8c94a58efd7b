# What the driver of VM tests gives a machine.
{ lib, pkgs, config, ... }:
let option = type: default: lib.mkOption { inherit type default; };
in
{
  options.virtualisation = with lib.types; {
    memorySize = option int 1024;
    cores = option int 1;
    diskSize = option int 1024;
    writableStore = option bool true;
  };
  config = {
    nixpkgs.hostPlatform = "x86_64-linux";
    system.stateVersion = "26.05";
  };
}

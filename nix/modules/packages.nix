# Where the modules take programs from.
{ fleet }:
{ lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  packages = import ../packages { inherit fleet pkgs lib; };
in
{
  options.ultracloud = {
    packagesFor = mkOption {
      type = types.raw;
      internal = true;
      default = packages.component;
      description = "site: name: the program of a component.";
    };
    helpersFor = mkOption { type = types.raw; internal = true; default = packages.helpers; description = "name: its helpers."; };
    uc = mkOption { type = types.package; default = packages.uc; description = "The operator's command line."; };
  };
}

# nixpkgs.lib.nixosSystem with the options that UltraCloud's modules set, strictly typed, and nothing of NixOS behind
# them. The toplevel depends on everything that was configured, and throws when an assertion does not hold.
{ lib, pkgs }:
{ modules, specialArgs ? { } }:
let
  result = lib.evalModules {
    class = "nixos";
    specialArgs = { modulesPath = toString ./modules; } // specialArgs;
    modules = modules ++ [ ./options.nix { _module.args = { inherit pkgs extend; }; } ];
  };
  # A specialisation is the same system with something more.
  extend = module: (result.extendModules { modules = [ module ]; }).config;
in
result

{
  description = "Stands in for nixpkgs where there is none: evaluates UltraCloud's flake, builds nothing of substance";

  # The project's own few functions; the checks put the real nixpkgs.lib here when they are given a path to it.
  inputs.library.url = "path:./lib";

  outputs = { self, library }:
    let
      pkgs = import ./packages.nix { inherit (library) lib; inherit nixosSystem; };
      nixosSystem = import ./nixos-system.nix { inherit (library) lib; inherit pkgs; };
    in
    {
      lib = library.lib // { inherit nixosSystem; };
      legacyPackages.x86_64-linux = pkgs;
    };
}

{
  description = "UltraCloud: a cloud platform that starts on a laptop and installs on bare metal";

  inputs = {
    # Unstable, as programs are compiled with the `denort` output of its deno.
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    disko = {
      url = "github:nix-community/disko";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs = { self, nixpkgs, disko }:
    let
      system = "x86_64-linux";
      pkgs = nixpkgs.legacyPackages.${system};
      inherit (nixpkgs) lib;

      # Every component of the workspace, by its component.json.
      fleet = import ./nix/lib/fleet.nix { };
      programs = import ./nix/packages { inherit fleet pkgs lib; };
      systems = import ./nix/systems { inherit nixpkgs disko fleet; };
      vm = systems.single-node-quickstart.config.system.build.vm;
      iso = systems.ultracloud-iso.config.system.build.isoImage;
      quickstart = import ./nix/apps/quickstart.nix { inherit pkgs vm; };
      quickstartApp = {
        type = "app";
        program = "${quickstart}/bin/single-node-quickstart";
        meta.description = "Boots the trial VM and waits until its components are ready";
      };
    in
    {
      packages.${system} = programs.all // {
        single-node-trial-vm = vm;
        single-node-quickstart = quickstart;
        ultracloud-iso = iso;
      };

      apps.${system} = {
        single-node-quickstart = quickstartApp;
        single-node-trial = quickstartApp;
        # The name it had before.
        all-in-one-quickstart = quickstartApp;
      };

      nixosConfigurations = systems;
      nixosModules.default = import ./nix/modules { inherit fleet; };

      checks.${system} = import ./nix/checks { inherit self pkgs lib fleet programs systems iso vm; };

      devShells.${system}.default = import ./nix/shell.nix { inherit pkgs; };

      lib = {
        # evaluateCluster cluster: { state; json; errors; bootstrap; }
        evaluateCluster = import ./nix/lib/cluster-schema.nix { };
        clusters = {
          single-node-dev = import ./nix/clusters/single-node-dev.nix;
          ha-control-plane = import ./nix/clusters/ha-control-plane.nix;
          bare-metal = import ./nix/clusters/bare-metal.nix;
        };
        inherit fleet;
      };
    };
}

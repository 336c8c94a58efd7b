# The named checks. Those that evaluate or compile run anywhere Nix does; those that boot machines say how.
{ self, pkgs, lib, fleet, programs, systems, iso, vm }:
let
  inherit (builtins) listToAttrs mapAttrs unsafeDiscardStringContext;
  build = name: systems.${name}.config.system.build;
  installed = [ "single-node-quickstart" "node01" "node02" "node03" "baremetal-qemu-control-plane" "baremetal-qemu-worker" ];
  netboots = [ "netboot-all-in-one" "netboot-control-plane" ];
  each = names: f: listToAttrs (map (name: { inherit name; value = f name; }) names);
  processCheck = import ./process-check.nix { inherit pkgs programs; };
  vmCheck = import ./vm-check.nix { inherit pkgs lib fleet; };
in
rec {
  # Evaluates every canonical system down to its derivation, and builds nothing of it.
  canonical-profile-eval-guards = pkgs.runCommand "canonical-profile-eval-guards" {
    evaluated = builtins.toJSON (mapAttrs (_: unsafeDiscardStringContext) (
      each installed (name: (build name).toplevel.drvPath)
      // each netboots (name: (build name).netbootRamdisk.drvPath)
      // { ultracloud-iso = iso.drvPath; single-node-trial-vm = vm.drvPath; }));
    passAsFile = [ "evaluated" ];
  } ''cp "$evaluatedPath" $out'';

  # The same, built.
  canonical-profile-build-guards = pkgs.linkFarm "canonical-profile-build-guards" (
    each installed (name: (build name).toplevel)
    // each netboots (name: (build name).netbootRamdisk)
    // { ultracloud-iso = iso; single-node-trial-vm = vm; });

  supported-surface-guard = import ./surface-guard.nix { inherit self pkgs programs; };

  deployer-bootstrap-e2e = processCheck "deployer-bootstrap-e2e" [ "services/deployer" ];
  host-lifecycle-e2e = processCheck "host-lifecycle-e2e" [ "agents/nix-agent" ];
  fleet-scheduler-e2e = processCheck "fleet-scheduler-e2e" [ "services/fleet-scheduler" "agents/node-agent" ];

  deployer-vm-smoke = vmCheck "deployer-vm-smoke" { health = "true"; wanted = "active"; };
  deployer-vm-rollback = vmCheck "deployer-vm-rollback" { health = "false"; wanted = "rolled-back"; };

  portable-control-plane-regressions = pkgs.linkFarm "portable-control-plane-regressions" {
    inherit canonical-profile-eval-guards supported-surface-guard deployer-bootstrap-e2e host-lifecycle-e2e
      deployer-vm-smoke fleet-scheduler-e2e;
  };

  baremetal-iso-e2e = import ./baremetal-iso-e2e.nix { inherit pkgs programs systems iso; };
}

# One control-plane node and one worker, from an empty disk: what the ISO lane installs. Classes own the install plan;
# nodes bind identity only. `targets` are the prebuilt systems by class, so that nobody builds on the machine.
{ targets ? { }, trustedKeys ? [ ], binaryCacheUrl ? "http://10.0.2.2:8090", deployerUrl ? "http://10.0.2.2:7152" }:
let
  class = name: configuration: disk: {
    install_plan = {
      nixos_configuration = configuration;
      disko_config_path = "nix/disks/single.nix";
      target_disk_by_id = "/dev/disk/by-id/${disk}";
    };
  } // (if targets ? ${name} then { desired_system.target_system = targets.${name}; } else { });
  bootstrapped = [ "nix-agent" "first-boot-automation" "install-target" ];
in
{
  version = 1;
  clusterId = "bare-metal";
  profile = "bare-metal-bootstrap";
  network = { cidr = "10.0.2.0/24"; operatorAddress = "10.0.2.2"; };
  nodes = {
    baremetal-qemu-control-plane = {
      role = "control-plane";
      address = "10.0.2.15";
      member = 1;
      components = [ "chainfire" "flaredb" "iam" "deployer" ] ++ bootstrapped;
      class = "control-plane";
      serial = "uc-control-plane";
    };
    baremetal-qemu-worker = {
      role = "worker";
      address = "10.0.2.16";
      member = 2;
      components = bootstrapped;
      class = "worker";
      serial = "uc-worker";
    };
  };
  classes = {
    control-plane = class "control-plane" "baremetal-qemu-control-plane" "virtio-uc-control-root";
    worker = class "worker" "baremetal-qemu-worker" "virtio-uc-worker-root";
  };
  deployer = { url = deployerUrl; inherit binaryCacheUrl trustedKeys; };
}

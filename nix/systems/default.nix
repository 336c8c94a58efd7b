# Every nixosConfiguration.
{ nixpkgs, disko, fleet }:
let
  modules = [ (import ../modules { inherit fleet; }) ./common.nix ];
  image = module: nixpkgs.lib.nixosSystem { modules = modules ++ [ module ]; };
  installed = module: nixpkgs.lib.nixosSystem { modules = modules ++ [ disko.nixosModules.disko module ]; };
  node = cluster: name: installed (import ./cluster-node.nix { inherit cluster; node = name; });

  ha = import ../clusters/ha-control-plane.nix;
  bareMetal = name: disk: installed (import ./cluster-node.nix {
    cluster = import ../clusters/bare-metal.nix { };
    node = name;
    inherit disk;
  });

  single-node-quickstart = installed (import ./single-node-quickstart.nix { cluster = import ../clusters/single-node-dev.nix; });
  controlPlane = { node01 = node ha "node01"; node02 = node ha "node02"; node03 = node ha "node03"; };
  targets = {
    baremetal-qemu-control-plane = bareMetal "baremetal-qemu-control-plane" "/dev/disk/by-id/virtio-uc-control-root";
    baremetal-qemu-worker = bareMetal "baremetal-qemu-worker" "/dev/disk/by-id/virtio-uc-worker-root";
  };
in
controlPlane // targets // {
  inherit single-node-quickstart;
  netboot-all-in-one = image (import ./netboot.nix { targets = { inherit single-node-quickstart; }; });
  netboot-control-plane = image (import ./netboot.nix { targets = controlPlane; });
  ultracloud-iso = image (import ./iso.nix { inherit targets; });
}

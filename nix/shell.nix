# What `deno task test` and the lanes drive, for `nix develop`; `tools` are the same for programs that start lanes.
{ pkgs }:
let
  tools = with pkgs; [
    deno nodejs git jq curl nix
    qemu_kvm OVMF openvswitch ovn etcd iproute2 e2fsprogs procps ethtool busybox coreutils
    xorriso mtools dosfstools squashfsTools cpio zstd
  ];
in
pkgs.mkShell {
  packages = tools;
  DENO_NO_UPDATE_CHECK = "1";
  passthru = { inherit tools; };
}

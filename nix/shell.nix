# What `deno task test` and the lanes drive, for `nix develop`.
{ pkgs }:
pkgs.mkShell {
  packages = with pkgs; [
    deno nodejs git jq curl nix
    qemu_kvm OVMF openvswitch ovn etcd iproute2 e2fsprogs procps ethtool busybox
    xorriso mtools dosfstools squashfsTools cpio zstd
  ];
  DENO_NO_UPDATE_CHECK = "1";
}

# The runner of the bare-metal lane over the real ISO and the real NixOS systems. Nothing boots while this is built:
# a build has no KVM. ./result/bin/baremetal-iso-e2e DIR runs it on the host and leaves its artifacts in DIR.
{ pkgs, programs, systems, iso }:
let
  toplevel = name: systems.${name}.config.system.build.toplevel;
in
pkgs.writeShellApplication {
  name = "baremetal-iso-e2e";
  runtimeInputs = with pkgs; [ deno qemu_kvm OVMF.fd curl jq nix coreutils ];
  text = ''
    out=$(realpath -m "''${1:-./work/baremetal-iso-e2e/latest}")
    mkdir -p "$out"
    # The lane runs from the sources: a copy, as the store is read-only.
    source=$(mktemp -d)
    trap 'rm -rf "$source"' EXIT
    cp -r --no-preserve=mode ${programs.source}/. "$source"
    export ULTRACLOUD_WORK_ROOT="$out"
    export UC_BAREMETAL_ISO=${iso}/iso/ultracloud.iso
    export UC_BAREMETAL_CONTROL_PLANE=${toplevel "baremetal-qemu-control-plane"}
    export UC_BAREMETAL_WORKER=${toplevel "baremetal-qemu-worker"}
    { echo execution_model=materialized-check-runner; echo "started=$(date --utc +%FT%TZ)"; } > "$out/environment.txt"
    cd "$source"
    exec deno task cluster baremetal-iso
  '';
}

# The runner of the bare-metal lane. Nothing boots while this is built: a build has no KVM. ./result/bin/baremetal-iso-e2e
# DIR runs the lane on the host and leaves its artifacts in DIR. Building it builds the ISO and the systems of NixOS; the
# lane itself still boots the medium and systems that it makes from distribution packages (nix/README.md says so, too).
{ pkgs, programs, systems, iso }:
let
  toplevel = name: systems.${name}.config.system.build.toplevel;
in
pkgs.writeShellApplication {
  name = "baremetal-iso-e2e";
  runtimeInputs = with pkgs; [ deno qemu_kvm curl jq nix coreutils ];
  text = ''
    out=$(realpath -m "''${1:-./work/baremetal-iso-e2e/latest}")
    mkdir -p "$out"
    # The lane runs from the sources: a copy, as the store is read-only.
    source=$(mktemp -d)
    trap 'rm -rf "$source"' EXIT
    cp -r --no-preserve=mode ${programs.source}/. "$source"
    export ULTRACLOUD_WORK_ROOT="$out"
    {
      echo execution_model=materialized-check-runner
      echo booted_systems=portable
      echo iso=${iso}
      echo control_plane=${toplevel "baremetal-qemu-control-plane"}
      echo worker=${toplevel "baremetal-qemu-worker"}
      echo "started=$(date --utc +%FT%TZ)"
    } > "$out/environment.txt"
    cd "$source"
    deno task cluster fresh-baremetal-iso --faults all
  '';
}

# The trial machine: the VM platform alone, with keys of its own making, in a VM or on a spare host. No deployer, no
# nix-agent, no fleet: the profile refuses them.
{ cluster }:
{ config, lib, pkgs, ... }:
{
  imports = [ (import ./cluster-node.nix { inherit cluster; node = "single-node"; }) ];
  ultracloud.secrets.generate = true;

  # What the launcher waits for on the serial console: every component of the surface answers, or which one does not.
  systemd.services.ultracloud-smoke = {
    description = "UltraCloud smoke test of this machine";
    wantedBy = [ "multi-user.target" ];
    after = [ "multi-user.target" ];
    path = [ pkgs.curl pkgs.jq pkgs.coreutils ];
    serviceConfig = { Type = "oneshot"; StandardOutput = "journal+console"; };
    script = ''
      surface=/etc/ultracloud/product-surface.json
      for component in $(jq -r '.components | to_entries[] | select(.value) | .key' $surface); do
        address=$(jq -r --arg name "$component" '.components[$name]' $surface)
        healthy=
        # Emulated machines are slow: two minutes for each.
        for _ in $(seq 1 120); do
          if curl --silent --fail --max-time 2 "http://$address/readyz" > /dev/null; then healthy=1; break; fi
          sleep 1
        done
        if [ -z "$healthy" ]; then
          echo "ULTRACLOUD_QUICKSTART failed: $component at $address is not ready"
          exit 1
        fi
        echo "ULTRACLOUD_QUICKSTART ready: $component"
      done
      for program in qemu-system-x86_64 qemu-img; do
        if ! test -x ${pkgs.qemu_kvm}/bin/$program; then
          echo "ULTRACLOUD_QUICKSTART failed: $program is missing"
          exit 1
        fi
      done
      if [ -w /dev/kvm ]; then echo "ULTRACLOUD_QUICKSTART guests: KVM"; else echo "ULTRACLOUD_QUICKSTART guests: TCG"; fi
      echo "ULTRACLOUD_QUICKSTART passed"
    '';
  };

  virtualisation.vmVariant.virtualisation = {
    memorySize = 4096;
    # Two: emulated machines of an older QEMU do not boot with more than one; see the launcher.
    cores = lib.mkDefault 2;
    diskSize = 8192;
    graphics = false;
  };
}

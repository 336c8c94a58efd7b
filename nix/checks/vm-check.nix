# A NixOS VM with stores, deployer and nix-agent of its own takes a second generation from a signed cache. TCG will do:
# nothing in it needs KVM, which the test driver asks for by default.
{ pkgs, lib, fleet }:
name: { health, wanted }:
let
  cluster = {
    version = 1;
    clusterId = "vm";
    profile = "ha-control-plane";
    network = { cidr = "127.0.0.0/8"; operatorAddress = "127.0.0.2"; };
    nodes.machine = {
      role = "control-plane";
      address = "127.0.0.1";
      member = 1;
      components = [ "chainfire" "flaredb" "iam" "deployer" "nix-agent" ];
    };
  };
  contexts = pkgs.writeText "contexts.json" (builtins.toJSON {
    version = 1;
    current = "vm";
    contexts.vm = { clusterId = "vm"; operatorKeyFile = "/var/lib/ultracloud/credentials/operator/identity.key"; };
  });
  test = pkgs.testers.runNixOSTest {
    inherit name;
    nodes.machine = {
      imports = [ (import ../modules { inherit fleet; }) ];
      ultracloud = { inherit cluster; node = "machine"; secrets.generate = true; };
      virtualisation = { memorySize = 3072; cores = 1; diskSize = 8192; writableStore = true; };
      environment.systemPackages = [ pkgs.python3Minimal pkgs.jq ];
      environment.variables.UC_CONFIG = "${contexts}";
      nix.settings.experimental-features = [ "nix-command" "flakes" ];
      # The generation that is rolled out; in the store from the start, so that only signature and switch are tried.
      specialisation.next.configuration.environment.etc."generation".text = "next";
    };
    testScript = { nodes, ... }: ''
      import json

      target = "${nodes.machine.specialisation.next.configuration.system.build.toplevel}"
      machine.start()
      for unit in ["chainfire", "flaredb", "deployer", "nix-agent"]:
          machine.wait_for_unit(unit + ".service")
      machine.wait_until_succeeds("uc deployer status", timeout=600)

      machine.succeed("nix key generate-secret --key-name test-1 > /root/key")
      public = machine.succeed("nix key convert-secret-to-public < /root/key").strip()
      machine.succeed(f"nix copy --to 'file:///var/cache/uc?secret-key=/root/key' {target}")
      machine.succeed("cd /var/cache/uc && systemd-run --unit=cache --working-directory=/var/cache/uc python3 -m http.server 8090 --bind 127.0.0.1")

      state = json.loads(machine.succeed("cat /etc/ultracloud/cluster.json"))
      state["deployer"] = {"binaryCacheUrl": "http://127.0.0.1:8090", "trustedKeys": [public]}
      state["nodes"]["machine"]["desired_system"] = {
          "target_system": target,
          "health_check_command": ["/run/current-system/sw/bin/${health}"],
          "health_check_attempts": 2,
          "health_check_interval_ms": 1000,
      }
      machine.succeed(f"echo '{json.dumps(state)}' > /root/cluster.json")
      before = machine.succeed("readlink -f /run/current-system").strip()
      machine.succeed("uc deployer apply /root/cluster.json")
      machine.wait_until_succeeds(
          "uc node inspect machine -o json | jq -e '.. | strings | select(ascii_downcase | gsub(\"_\"; \"-\") | test(\"${wanted}$\"))'",
          timeout=900,
      )
      now = machine.succeed("readlink -f /run/current-system").strip()
      assert now == (target if "${wanted}" == "active" else before), f"runs {now}"
    '';
  };
in
# The driver falls back to emulation by itself.
test.overrideTestDerivation { requiredSystemFeatures = [ "nixos-test" ]; }

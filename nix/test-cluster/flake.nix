{
  description = "UltraCloud's test cluster under the names it is published by; the harness itself is ../../test-cluster";

  inputs = {
    ultracloud.url = "path:../..";
    nixpkgs.follows = "ultracloud/nixpkgs";
  };

  outputs = { self, ultracloud, nixpkgs }:
    let
      system = "x86_64-linux";
      pkgs = nixpkgs.legacyPackages.${system};
      # Runs a task of the workspace from a checkout when it is started in one, else from a copy of the flake's sources:
      # the lanes write beside what they run from.
      task = name: description: {
        type = "app";
        meta = { inherit description; };
        program = "${pkgs.writeShellApplication {
          inherit name;
          runtimeInputs = ultracloud.devShells.${system}.default.passthru.tools;
          text = ''
            work=''${ULTRACLOUD_WORK_ROOT:-$PWD/work}
            if [ -e deno.json ] && [ -e test-cluster/main.ts ]; then
              source=$PWD
            else
              source=$(mktemp -d)
              trap 'rm -rf "$source"' EXIT
              cp -r --no-preserve=mode ${ultracloud}/. "$source"
            fi
            export ULTRACLOUD_WORK_ROOT="$work"
            cd "$source"
            # "--" may stand between the name of the app and the lane.
            if [ "''${1:-}" = -- ]; then shift; fi
            deno task ${name} "$@"
          '';
        }}/bin/${name}";
      };
    in
    {
      apps.${system} = {
        cluster = task "cluster" "Lanes of the test cluster: cluster -- LANE";
        hardware-smoke = task "hardware-smoke" "Bring-up of a physical machine: preflight, run, capture";
      };
    };
}

# Every program of the workspace: each component with the permissions of its manifest, and the operator's `uc`.
{ fleet, pkgs, lib }:
let
  npm = import ./npm-deps.nix { inherit pkgs lib; };
  # Only what programs are made of: a changed page of docs/ compiles nothing again.
  source = builtins.path {
    name = "ultracloud-source";
    path = ../..;
    filter = path: type:
      let top = builtins.head (builtins.split "/" (lib.removePrefix (toString ../.. + "/") path));
      in builtins.elem top [ "deno.json" "deno.lock" "agents" "cli" "lib" "proto" "services" "test-cluster" ];
  };
  mkDenoProgram = import ./deno-program.nix { inherit pkgs lib npm source; };
  mkComponent = import ../mk-component.nix { inherit fleet; };
  # As `deno task build` without more said: any address of the host, peers in the private network 10/8.
  anywhere = { listen = "0.0.0.0"; peers = "10.0.0.0/8"; };
in
rec {
  inherit npm source mkDenoProgram;
  component = site: name: (mkComponent name).package mkDenoProgram site;
  helpers = name: (mkComponent name).helpers mkDenoProgram;
  # A person's tool acts with that person's rights; it is still never asked a question.
  uc = mkDenoProgram {
    name = "uc";
    summary = "The operator's command line of UltraCloud";
    entry = "cli/main.ts";
    permissions = [ "--no-prompt" ] ++ map (grant: "--allow-${grant}") [ "net" "read" "write" "env" "run" "sys" ];
  };
  all = builtins.mapAttrs (name: _: component anywhere name) fleet // { inherit uc; };
}

# Packages that are named, and no others: a package that the flake asks for and that is not here is an error. Each is a
# derivation, so that what is made of it has one too; none of them is the program it is named after.
{ lib, nixosSystem }:
let
  inherit (builtins) attrNames listToAttrs map removeAttrs toString;

  # The attributes of a derivation, as nixpkgs' builders take them: what is not text becomes it.
  plain = attrs: removeAttrs attrs [ "meta" "passthru" "nativeBuildInputs" "buildInputs" "impureEnvVars" ];
  make = attrs: derivation ({
    system = "x86_64-linux";
    builder = "/bin/sh";
    args = [ "-c" "echo a stub > $out" ];
  } // plain attrs) // { meta = attrs.meta or { }; pname = attrs.pname or attrs.name; version = attrs.version or "0"; passthru = attrs.passthru or { }; } // (attrs.passthru or { });
  stub = name: attrs: make ({ inherit name; } // attrs);

  names = [
    "coreutils" "util-linux" "procps" "iproute2" "ethtool" "ovn" "openvswitch" "qemu_kvm" "nix" "systemd" "e2fsprogs"
    "dosfstools" "gptfdisk" "findutils" "nixos-install" "curl" "jq" "gnugrep" "nodejs" "cacert" "git" "etcd" "busybox" "xorriso"
    "mtools" "squashfsTools" "cpio" "zstd" "python3Minimal"
  ];
in
listToAttrs (map (name: { inherit name; value = stub name { }; }) names) // rec {
  inherit stub;
  deno = stub "deno" { version = "2.9.6"; passthru.denort = stub "denort" { }; };
  OVMF = stub "OVMF" { passthru.fd = stub "OVMF-fd" { }; };

  stdenvNoCC.mkDerivation = attrs: make ({ name = "${attrs.pname or "unnamed"}-${attrs.version or "0"}"; } // attrs // {
    dependencies = map toString (attrs.nativeBuildInputs or [ ] ++ attrs.buildInputs or [ ]);
  });
  # These run what they are given, so that a check that is text alone is really built.
  runCommand = name: env: script: make (env // { inherit name; args = [ "-euc" script ]; });
  writeText = name: text: make { inherit name text; passAsFile = [ "text" ]; args = [ "-euc" ''cp "$textPath" $out'' ]; };
  writeShellApplication = { name, text, runtimeInputs ? [ ], ... }: make {
    inherit name text;
    passAsFile = [ "text" ];
    dependencies = map toString runtimeInputs;
    args = [ "-euc" ''mkdir -p $out/bin; { echo "#!/bin/sh"; cat "$textPath"; } > $out/bin/${name}; chmod 755 $out/bin/${name}'' ];
    meta.mainProgram = name;
  };
  linkFarm = name: entries: make { inherit name; links = map (entry: "${entry} ${entries.${entry}}") (attrNames entries); };
  mkShell = attrs: make ({ name = "shell"; } // removeAttrs attrs [ "packages" ] // { inputs = map toString (attrs.packages or [ ]); });

  # Evaluates the machines of a test and its script; runs neither.
  testers.runNixOSTest = { name, nodes, testScript }:
    let
      machines = builtins.mapAttrs (_: module: (nixosSystem { modules = [ module ./modules/test-machine.nix ]; }).config) nodes;
      script = if builtins.isFunction testScript then testScript { nodes = machines; } else testScript;
      test = more: make ({
        name = "vm-test-run-${name}";
        inherit script;
        passAsFile = [ "script" ];
        machines = map (machine: "${machines.${machine}.system.build.toplevel}") (attrNames machines);
        requiredSystemFeatures = [ "nixos-test" "kvm" ];
        passthru.overrideTestDerivation = test;
      } // more);
    in test { };
}

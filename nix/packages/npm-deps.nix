# The npm packages of deno.lock as a cache that Deno takes for its own: each is one fixed-output derivation whose hash is
# the lock's integrity, so there is nothing to update by hand. `npm pack` fetches them, from wherever npm is configured
# to fetch. `registry` is what the cache is keyed by, in the build as in whoever uses it; nothing is asked there.
{ pkgs, lib, lockFile ? ../../deno.lock }:
let
  inherit (builtins) attrNames elem filter fromJSON head map match readFile replaceStrings toJSON;
  lock = fromJSON (readFile lockFile);
  registry = "https://npm.invalid";

  # "@bufbuild/protoc-gen-es@2.17.0_@bufbuild+protobuf@2.17.0": what follows the underscore are its peers.
  parse = key:
    let parts = match "(@?[^@]+)@([^_]+)(_.*)?" key;
    in { name = head parts; version = builtins.elemAt parts 1; inherit key; entry = lock.npm.${key}; };
  # Packages with programs for other systems are never looked at here.
  fits = it: elem "linux" (it.entry.os or [ "linux" ]) && elem "x64" (it.entry.cpu or [ "x64" ]);
  packages = filter fits (map parse (attrNames lock.npm));

  fetch = it: pkgs.stdenvNoCC.mkDerivation {
    name = "${replaceStrings [ "@" "/" ] [ "" "-" ] it.name}-${it.version}.tgz";
    nativeBuildInputs = [ pkgs.nodejs ];
    SSL_CERT_FILE = "${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt";
    NODE_EXTRA_CA_CERTS = "${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt";
    impureEnvVars = lib.fetchers.proxyImpureEnvVars ++ [ "NPM_CONFIG_REGISTRY" ];
    outputHash = it.entry.integrity;
    outputHashMode = "flat";
    dontUnpack = true;
    installPhase = ''
      export HOME=$TMPDIR
      npm pack --silent --ignore-scripts ${lib.escapeShellArg "${it.name}@${it.version}"}
      mv ./*.tgz $out
    '';
  };

  # What Deno wants to know of a package: the versions there are, and what each depends on.
  indexScript = ./npm-index.mjs;
in
{
  inherit registry packages;
  cache = pkgs.stdenvNoCC.mkDerivation {
    name = "ultracloud-npm-cache";
    nativeBuildInputs = [ pkgs.nodejs ];
    dontUnpack = true;
    dontFixup = true;
    listing = toJSON (map (it: { inherit (it) name version; integrity = it.entry.integrity; tarball = "${fetch it}"; }) packages);
    passAsFile = [ "listing" ];
    installPhase = ''
      node ${indexScript} "$listingPath" $out
    '';
  };
}

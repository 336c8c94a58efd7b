# Tests that start components as processes on loopback, in Nix's sandbox, which has a loopback of its own. No VM.
{ pkgs, programs }:
name: rooms:
pkgs.stdenvNoCC.mkDerivation {
  inherit name;
  src = programs.source;
  nativeBuildInputs = [ pkgs.deno pkgs.nix pkgs.procps ];
  DENO_NO_UPDATE_CHECK = "1";
  NPM_CONFIG_REGISTRY = programs.npm.registry;
  buildPhase = ''
    export HOME=$TMPDIR DENO_DIR=$TMPDIR/deno ULTRACLOUD_WORK_ROOT=$TMPDIR/work
    mkdir -p $DENO_DIR
    cp -r ${programs.npm.cache} $DENO_DIR/npm
    chmod -R u+w $DENO_DIR
    deno test --frozen --cached-only --no-check -A ${toString rooms} 2>&1 | tee log
  '';
  # What was skipped stands in it with its reason.
  installPhase = ''install -Dm644 log $out/log'';
}

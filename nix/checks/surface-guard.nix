# The supported surface: the guard over the sources, and no archived helper among the outputs of the flake.
{ self, pkgs, programs }:
let
  inherit (builtins) attrNames concatLists concatStringsSep filter match;
  archived = ".*(netboot-worker|netboot-base|pxe-server|vm-smoke-target|firecracker|mvisor|k8shost-cni|k8shost-csi|lightningstor-csi|k8shost-controllers).*";
  outputs = concatLists (map attrNames [
    self.packages.x86_64-linux
    self.apps.x86_64-linux
    self.nixosConfigurations
    self.checks.x86_64-linux
  ]);
  back = filter (name: match archived name != null) outputs;
in
if back != [ ] then throw "The flake offers what is archived: ${concatStringsSep ", " back}"
else pkgs.stdenvNoCC.mkDerivation {
  name = "supported-surface-guard";
  src = self;
  nativeBuildInputs = [ pkgs.deno ];
  DENO_NO_UPDATE_CHECK = "1";
  NPM_CONFIG_REGISTRY = programs.npm.registry;
  buildPhase = ''
    export HOME=$TMPDIR DENO_DIR=$TMPDIR/deno
    mkdir -p $DENO_DIR
    cp -r ${programs.npm.cache} $DENO_DIR/npm
    chmod -R u+w $DENO_DIR
    deno run --frozen --cached-only -A cli/dev/main.ts surface-guard 2>&1 | tee log
  '';
  installPhase = ''install -Dm644 log $out/log'';
}

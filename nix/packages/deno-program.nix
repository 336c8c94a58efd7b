# A program of the workspace made by `deno compile`: the runtime in front, the code and its permissions inside. nixpkgs
# has the runtime as the output `denort` of deno; stripping or patching the result would lose what is behind it.
{ pkgs, lib, npm, source, version ? "0.1.0" }:
{ name, summary, entry, permissions }:
let
  inherit (pkgs) deno;
  denort = deno.denort or (throw ''
    Cannot compile ${name}: this nixpkgs has deno ${deno.version or "of unknown version"} without its output `denort`, the runtime that programs are made with.
    Use a nixpkgs that has it (nixos-unstable since summer 2026): nix build --override-input nixpkgs github:NixOS/nixpkgs/nixos-unstable'');
in
pkgs.stdenvNoCC.mkDerivation {
  pname = "ultracloud-${name}";
  inherit version;
  src = source;
  nativeBuildInputs = [ deno ];

  DENORT_BIN = "${denort}/bin/denort";
  DENO_NO_UPDATE_CHECK = "1";
  # Keys the cache; nothing is asked there.
  NPM_CONFIG_REGISTRY = npm.registry;

  buildPhase = ''
    runHook preBuild
    export HOME=$TMPDIR DENO_DIR=$TMPDIR/deno
    mkdir -p $DENO_DIR
    cp -r ${npm.cache} $DENO_DIR/npm
    chmod -R u+w $DENO_DIR
    deno compile --no-check --frozen --cached-only --exclude-unused-npm \
      ${lib.concatMapStringsSep " " lib.escapeShellArg permissions} \
      --output ${name} ${entry}
    runHook postBuild
  '';
  installPhase = ''
    runHook preInstall
    install -Dm755 ${name} $out/bin/${name}
    runHook postInstall
  '';
  dontStrip = true;
  dontPatchELF = true;
  doInstallCheck = true;
  installCheckPhase = ''
    $out/bin/${name} --version
  '';
  passthru = { inherit permissions npm; };
  meta = {
    description = summary;
    mainProgram = name;
    license = lib.licenses.asl20;
    platforms = [ "x86_64-linux" ];
  };
}

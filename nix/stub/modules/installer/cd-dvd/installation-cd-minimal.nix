# The options of the installer image that are set; the image depends on the whole configuration.
{ config, lib, pkgs, ... }:
let option = type: default: lib.mkOption { inherit type default; };
in
{
  options = with lib.types; {
    image.baseName = option str "nixos";
    isoImage = {
      volumeID = option str "nixos";
      storeContents = option (listOf package) [ ];
      contents = option (listOf (submodule { options = {
        source = lib.mkOption { type = package; };
        target = lib.mkOption { type = str; };
      }; })) [ ];
    };
  };
  config = {
    assertions = [ { assertion = builtins.stringLength config.isoImage.volumeID <= 32; message = "isoImage.volumeID is longer than 32 characters"; } ];
    system.build.isoImage = pkgs.stub "${config.image.baseName}.iso" {
      inherit (config.system.build) toplevel;
      inherit (config.isoImage) volumeID;
      storeContents = map toString config.isoImage.storeContents;
      contents = map (it: "${it.source} ${it.target}") config.isoImage.contents;
    };
  };
}

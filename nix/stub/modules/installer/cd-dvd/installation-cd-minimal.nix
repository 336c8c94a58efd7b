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
    };
  };
  config = {
    assertions = [ { assertion = builtins.stringLength config.isoImage.volumeID <= 32; message = "isoImage.volumeID is longer than 32 characters"; } ];
    system.build.isoImage = pkgs.stub "${config.image.baseName}.iso" {
      inherit (config.system.build) toplevel;
      inherit (config.isoImage) volumeID;
      contents = map toString config.isoImage.storeContents;
    };
  };
}

# The installer as an image: the same for QEMU, USB and virtual media, where nobody types a command line. Its parameters
# are either the kernel's or those of /ultracloud/site.cfg, a file of fixed length whose bytes are replaced in the image
# where they lie (`writeSiteIso` of test-cluster/baremetal, as in the portable medium).
{ targets }:
{ lib, modulesPath, pkgs, ... }:
let
  mark = "# UltraCloud: parameters of this medium's site. Rewritten in place; keep the length.";
  bytes = 4096;
  text = "${mark}\nset ultracloud_params=\"\"\n";
  fill = builtins.concatStringsSep "" (builtins.genList (_: "#") (bytes - 1 - builtins.stringLength text));
  cmdlineFile = "/run/ultracloud/installer/cmdline";
in
{
  imports = [ "${modulesPath}/installer/cd-dvd/installation-cd-minimal.nix" (import ./installer.nix { inherit targets; }) ];

  image.baseName = lib.mkForce "ultracloud";
  isoImage = {
    # The installer refuses to write to the medium of this label: the machine was started from it.
    volumeID = lib.mkForce "UCISO";
    storeContents = map (name: targets.${name}.config.system.build.destroyFormatMount) (builtins.attrNames targets);
    contents = [ { source = pkgs.writeText "site.cfg" "${text}${fill}\n"; target = "/ultracloud/site.cfg"; } ];
  };

  ultracloud.components.installer.settings = { inherit cmdlineFile; };
  # A name that is in both is refused by the installer, as it is there twice.
  systemd.services.installer.preStart = ''
    words=$(cat /proc/cmdline)
    if [ -e /iso/ultracloud/site.cfg ]; then
      while IFS= read -r line; do
        case "$line" in
          'set ultracloud_params="'*'"') line=''${line#*\"}; words="$words ''${line%\"}" ;;
        esac
      done < /iso/ultracloud/site.cfg
    fi
    printf '%s\n' "$words" > ${cmdlineFile}
  '';
}

# Where private keys lie before systemd hands each unit its own. On a cluster the operator puts them there, made by
# `uc keys make` of the cluster's file, or first-boot-automation does; a trial machine makes its own. What is no secret,
# or is renewed while units run, is put where they read it.
{ config, lib, pkgs, ... }:
let
  inherit (builtins) attrNames concatStringsSep filter map;
  inherit (lib) mkOption types;
  cfg = config.ultracloud;
  here = filter (name: cfg.components.${name}.enable) (attrNames cfg.components);
  owner = name: config.systemd.services.${name}.serviceConfig.User;

  generate = ''
    ${cfg.uc}/bin/uc keys make --cluster /etc/ultracloud/cluster.json --out ${cfg.secretsDir}
  '';
  # Certificates are renewed in place by mtls-agent: only what is missing is put there.
  place = name: ''
    for file in tls.crt tls.key tls-ca.crt; do
      if [ -e ${cfg.secretsDir}/${name}/$file ] && [ ! -e /etc/ultracloud/${name}/$file ]; then
        install -m 600 -o ${owner name} ${cfg.secretsDir}/${name}/$file /etc/ultracloud/${name}/$file
      fi
    done
  '';
in
{
  options.ultracloud = {
    secretsDir = mkOption {
      type = types.str;
      default = "/var/lib/ultracloud/credentials";
      description = "Directory of root's alone: trust.json, COMPONENT/identity.key and what else a unit loads.";
    };
    secrets.generate = mkOption { type = types.bool; default = false; description = "Whether missing keys are made on this host: for a cluster of one."; };
  };

  config = lib.mkIf (here != [ ]) {
    systemd.tmpfiles.rules = [ "d ${cfg.secretsDir} 0700 root root -" ];
    systemd.services.ultracloud-secrets = {
      description = "UltraCloud keys and certificates of this host";
      wantedBy = [ "multi-user.target" ];
      before = map (name: "${name}.service") (filter (name: name != "first-boot-automation") here);
      after = [ "systemd-tmpfiles-setup.service" ] ++ lib.optional (builtins.elem "first-boot-automation" here) "first-boot-automation.service";
      path = [ pkgs.coreutils ];
      serviceConfig = { Type = "oneshot"; RemainAfterExit = true; UMask = "0077"; };
      script = lib.optionalString cfg.secrets.generate generate + ''
        if [ -e ${cfg.secretsDir}/trust.json ]; then
          install -m 644 ${cfg.secretsDir}/trust.json /etc/ultracloud/trust.json
        fi
      '' + concatStringsSep "" (map place here);
    };
  };
}

# One component, from its component.json alone: its program as a package and its NixOS module. Mapped over the workspace
# in modules/default.nix and packages/default.nix; there is no list of components in Nix.
{ fleet }:
name:
let
  inherit (fleet.${name}) manifest dir;
  placement = import ./lib/placement.nix { inherit fleet; };
  unit = import ./lib/unit.nix { inherit fleet; };
  toToml = import ./lib/toml.nix;
  user = unit.userOf name;
in
{
  # mkDenoProgram: packages/deno-program.nix; site: { listen; peers; }, baked into the program's permissions.
  package = mkDenoProgram: site: mkDenoProgram {
    inherit name;
    inherit (manifest) summary;
    entry = "${dir}/${manifest.entry}";
    permissions = placement.permissionsOf site name;
  };
  # Programs of its own that it starts, which do what no component may do itself.
  helpers = mkDenoProgram: builtins.listToAttrs (map (helper: {
    name = helper;
    value = mkDenoProgram {
      name = "${name}-${helper}";
      summary = "${helper} of ${name}";
      entry = "${dir}/${helper}/main.ts";
      permissions = [ "--no-prompt" "--no-remote" "--allow-read" "--allow-write" "--allow-net" "--allow-run" "--allow-env" "--allow-sys" ];
    };
  }) (unit.helpersOf name));

  module = { config, lib, pkgs, ... }:
    let
      inherit (lib) mkIf mkOption types;
      top = config.ultracloud;
      cfg = top.components.${name};
      etc = "ultracloud/${name}";
      # The permissions of the program name its ports: others could not be listened on.
      wrongPorts = builtins.filter (listener:
        let port = builtins.match ".*:([0-9]+)" (cfg.settings.${listener}.listen or "");
        in port != null && port != [ (toString manifest.listen.${listener}.port) ]) (builtins.attrNames manifest.listen);
      credential = file: "${file}:${top.secretsDir}/${cfg.credentialSources.${file} or "${name}/${file}"}";
      hardening = unit.serviceConfigOf name;
    in
    {
      options.ultracloud.components.${name} = {
        enable = mkOption { type = types.bool; default = false; description = "Whether ${name} runs here. ${manifest.summary}."; };
        package = mkOption {
          type = types.package;
          default = top.packagesFor { listen = cfg.listenAddress; peers = top.peersCidr; } name;
          defaultText = "the program with this node's addresses in its permissions";
          description = "The program.";
        };
        listenAddress = mkOption { type = types.str; default = "127.0.0.1"; description = "Address that every listener binds."; };
        settings = mkOption {
          type = types.attrs;
          default = { };
          description = "config.toml, as docs/reference/config says; modules of a cluster fill it in. World-readable: secrets are credentials.";
        };
        credentials = mkOption {
          type = types.listOf types.str;
          default = [ ];
          description = "Files of secretsDir/${name} that the unit loads beside its identity.key.";
        };
        credentialSources = mkOption { type = types.attrs; default = { }; description = "Where a credential lies below secretsDir, when not in ${name}/."; };
        openFirewall = mkOption { type = types.bool; default = !(lib.hasPrefix "127." cfg.listenAddress); description = "Whether other hosts reach its listeners."; };
      };

      config = mkIf cfg.enable {
        assertions = map (listener: {
          assertion = false;
          message = "ultracloud.components.${name}.settings.${listener}.listen is ${cfg.settings.${listener}.listen}: wanted port ${toString manifest.listen.${listener}.port} of ${dir}/component.json, which its permissions are made from";
        }) wrongPorts;

        users.users = mkIf (user != "root") { ${user} = { isSystemUser = true; group = user; description = manifest.summary; }; };
        users.groups = mkIf (user != "root") { ${user} = { }; };

        # Certificates that mtls-agent renews lie here, and belong to who reads them.
        systemd.tmpfiles.rules = [ "d /etc/${etc} 0750 ${user} ${if user == "root" then "root" else user} -" ];
        environment.etc = {
          "${etc}/config.toml".text = toToml cfg.settings;
        } // lib.mapAttrs' (helper: program: lib.nameValuePair "${etc}/${helper}" { source = "${program}/bin/${name}-${helper}"; }) (top.helpersFor name);

        networking.firewall = mkIf cfg.openFirewall {
          allowedTCPPorts = (unit.firewallOf name).tcp;
          allowedUDPPorts = (unit.firewallOf name).udp;
        };

        systemd.services.${name} = {
          description = "UltraCloud ${manifest.summary}";
          wantedBy = [ "multi-user.target" ];
          wants = [ "network-online.target" ];
          # It starts while those it calls are down, and says so in its health.
          after = [ "network-online.target" "ultracloud-secrets.service" ];
          path = map (package: pkgs.${package}) (unit.packagesOf name);
          restartTriggers = [ config.environment.etc."${etc}/config.toml".text ];
          restartIfChanged = !(unit.drivesSwitch name);
          stopIfChanged = !(unit.drivesSwitch name);
          serviceConfig = hardening // {
            ExecStart = "${cfg.package}/bin/${name} --config /etc/${etc}/config.toml";
            LoadCredential = map credential (hardening.LoadCredential ++ cfg.credentials);
          };
        };
      };
    };
}

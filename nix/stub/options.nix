# Options of NixOS that UltraCloud's modules set. Whoever sets another one learns that it does not exist.
{ config, lib, pkgs, extend, ... }:
let
  inherit (builtins) concatStringsSep filter map mapAttrs toJSON;
  inherit (lib) mkOption types;
  option = type: default: mkOption { inherit type default; };
  submodule = options: types.submodule { inherit options; };
  strings = types.listOf types.str;

  # As systemd.services.<name>.serviceConfig takes values: one, or a line for each.
  unitOption = let one = types.oneOf [ types.bool types.int types.str types.path types.package ]; in types.either one (types.listOf one);
  service = submodule {
    description = option types.str "";
    wantedBy = option strings [ ];
    wants = option strings [ ];
    after = option strings [ ];
    before = option strings [ ];
    path = option (types.listOf types.package) [ ];
    script = option types.lines "";
    preStart = option types.lines "";
    environment = option (types.attrsOf (types.nullOr types.str)) { };
    restartTriggers = option (types.listOf types.anything) [ ];
    restartIfChanged = option types.bool true;
    stopIfChanged = option types.bool true;
    serviceConfig = option (types.attrsOf unitOption) { };
  };
  address = submodule { address = mkOption { type = types.str; }; prefixLength = mkOption { type = types.ints.between 0 32; }; };
  route = submodule {
    address = mkOption { type = types.str; };
    prefixLength = mkOption { type = types.ints.between 0 32; };
    via = option (types.nullOr types.str) null;
  };

  failed = map (assertion: assertion.message) (filter (assertion: !assertion.assertion) config.assertions);
  checked = value:
    if failed == [ ] then value
    else throw "\nFailed assertions:\n${concatStringsSep "\n" (map (message: "- ${message}") failed)}";
in
{
  options = {
    assertions = option (types.listOf (submodule { assertion = mkOption { type = types.bool; }; message = mkOption { type = types.str; }; })) [ ];
    nixpkgs.hostPlatform = mkOption { type = types.enum [ "x86_64-linux" ]; };
    system.stateVersion = mkOption { type = types.strMatching "[0-9]{2}[.][0-9]{2}"; };
    system.build = option (types.lazyAttrsOf types.raw) { };
    networking = {
      hostName = option (types.strMatching "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?") "nixos";
      useDHCP = option types.bool true;
      firewall = {
        enable = option types.bool true;
        allowedTCPPorts = option (types.listOf types.port) [ ];
        allowedUDPPorts = option (types.listOf types.port) [ ];
      };
      interfaces = option (types.attrsOf (submodule {
        useDHCP = option (types.nullOr types.bool) null;
        mtu = option (types.nullOr types.int) null;
        ipv4.addresses = option (types.listOf address) [ ];
        ipv4.routes = option (types.listOf route) [ ];
      })) { };
      vlans = option (types.attrsOf (submodule { id = mkOption { type = types.int; }; interface = mkOption { type = types.str; }; })) { };
    };
    services.bird = { enable = option types.bool false; config = option types.lines ""; };
    environment = {
      etc = option (types.attrsOf (types.submodule ({ name, ... }: { options = {
        text = option (types.nullOr types.lines) null;
        source = option (types.nullOr types.path) null;
        target = option types.str name;
      }; }))) { };
      systemPackages = option (types.listOf types.package) [ ];
      variables = option (types.attrsOf types.str) { };
    };
    users = {
      users = option (types.attrsOf (submodule {
        isSystemUser = option types.bool false;
        group = mkOption { type = types.str; };
        description = option types.str "";
      })) { };
      groups = option (types.attrsOf (submodule { gid = option (types.nullOr types.int) null; })) { };
    };
    systemd = {
      services = option (types.attrsOf service) { };
      tmpfiles.rules = option strings [ ];
    };
    boot = {
      kernelParams = option strings [ ];
      initrd.availableKernelModules = option strings [ ];
      loader.efi.canTouchEfiVariables = option types.bool false;
      loader.systemd-boot = {
        enable = option types.bool false;
        configurationLimit = option (types.nullOr types.int) null;
        bootCounting = { enable = option types.bool false; tries = option types.ints.positive 2; };
      };
    };
    fileSystems = option (types.attrsOf (submodule {
      device = option (types.nullOr types.str) null;
      fsType = option types.str "auto";
      options = option strings [ "defaults" ];
    })) { };
    nix.settings = option (types.attrsOf (types.oneOf [ types.bool types.int types.str strings ])) { };
    # The variant for VMs is a configuration of its own, over this one.
    virtualisation.vmVariant.virtualisation = {
      memorySize = option types.ints.positive 1024;
      cores = option types.ints.positive 1;
      diskSize = option types.ints.positive 1024;
      graphics = option types.bool true;
    };
    specialisation = option (types.attrsOf (submodule { configuration = mkOption { type = types.raw; apply = extend; }; })) { };
  };

  config.system.build = {
    toplevel = checked (pkgs.stub "nixos-system-${config.networking.hostName}" {
      services = toJSON (mapAttrs (_: service: service.serviceConfig // { inherit (service) script preStart; path = map toString service.path; }) config.systemd.services);
      etc = toJSON config.environment.etc;
      users = toJSON config.users;
      fileSystems = toJSON config.fileSystems;
      network = toJSON config.networking;
      inherit (config.system) stateVersion;
      platform = config.nixpkgs.hostPlatform;
      packages = map toString config.environment.systemPackages;
    });
    vm = checked (pkgs.stub "nixos-vm" { inherit (config.system.build) toplevel; variant = toJSON config.virtualisation.vmVariant; });
  };
}

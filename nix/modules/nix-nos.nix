# Low-level network of a host, under the names that configurations of nix-nos already use: interfaces, VLANs, static
# routes and BGP. Nothing about clusters: that is `ultracloud.cluster`.
{ config, lib, ... }:
let
  inherit (builtins) attrNames concatLists concatStringsSep elem filter head length listToAttrs map match toString;
  inherit (lib) mkIf mkOption types;
  cfg = config.nix-nos;

  address = types.strMatching "[0-9]+([.][0-9]+){3}";
  prefix = types.strMatching "[0-9]+([.][0-9]+){3}/[0-9]+";
  split = cidr: let parts = match "(.*)/([0-9]+)" cidr; in {
    address = head parts;
    prefixLength = builtins.fromJSON (builtins.elemAt parts 1);
  };
  routesOf = interface: map (route: split route.destination // { via = route.gateway; })
    (filter (route: route.interface == interface) cfg.staticRoutes);

  names = attrNames cfg.interfaces ++ attrNames cfg.vlans;
  vlanKeys = map (name: "${cfg.vlans.${name}.interface}/${toString cfg.vlans.${name}.id}") (attrNames cfg.vlans);
  isTwice = key: length (filter (other: other == key) vlanKeys) > 1;
  fail = message: { assertion = false; inherit message; };

  bird = ''
    router id ${cfg.bgp.routerId};
    protocol device { }
    protocol direct { ipv4; }
    protocol kernel { ipv4 { export all; }; }
    protocol static announced {
      ipv4;
      ${concatStringsSep "\n  " (map (network: "route ${network} unreachable;") cfg.bgp.networks)}
    }
  '' + concatStringsSep "" (map (name: let peer = cfg.bgp.neighbors.${name}; in ''
    protocol bgp ${name} {
      local as ${toString cfg.bgp.asn};
      neighbor ${peer.address} as ${toString peer.asn};
      ipv4 { import all; export where proto = "announced"; };
    }
  '') (attrNames cfg.bgp.neighbors));
in
{
  options.nix-nos = {
    interfaces = mkOption {
      default = { };
      description = "Physical interfaces.";
      type = types.attrsOf (types.submodule { options = {
        addresses = mkOption { type = types.listOf prefix; default = [ ]; description = "Addresses with prefix length."; };
        dhcp = mkOption { type = types.bool; default = false; description = "Whether DHCP gives it one."; };
        mtu = mkOption { type = types.nullOr (types.ints.between 576 9216); default = null; description = "Bytes of a packet; null is the driver's own."; };
      }; });
    };
    vlans = mkOption {
      default = { };
      description = "VLANs by the name of their device.";
      type = types.attrsOf (types.submodule { options = {
        id = mkOption { type = types.ints.between 1 4094; description = "VLAN id."; };
        interface = mkOption { type = types.str; description = "The interface that carries it."; };
        addresses = mkOption { type = types.listOf prefix; default = [ ]; description = "Addresses with prefix length."; };
      }; });
    };
    staticRoutes = mkOption {
      default = [ ];
      description = "Routes beside those of the addresses.";
      type = types.listOf (types.submodule { options = {
        destination = mkOption { type = prefix; description = "The network."; };
        gateway = mkOption { type = address; description = "The next hop."; };
        interface = mkOption { type = types.str; description = "Interface or VLAN that it leaves by."; };
      }; });
    };
    bgp = {
      enable = mkOption { type = types.bool; default = false; description = "Whether BIRD speaks BGP here."; };
      asn = mkOption { type = types.nullOr (types.ints.between 1 4294967295); default = null; description = "Own AS number."; };
      routerId = mkOption { type = types.nullOr address; default = null; description = "Router id."; };
      networks = mkOption { type = types.listOf prefix; default = [ ]; description = "Networks announced."; };
      neighbors = mkOption {
        default = { };
        description = "Peers by name.";
        type = types.attrsOf (types.submodule { options = {
          address = mkOption { type = address; description = "Address of the peer."; };
          asn = mkOption { type = types.ints.between 1 4294967295; description = "AS number of the peer."; };
        }; });
      };
    };
  };

  config = {
    assertions = concatLists [
      (map (name: fail "nix-nos.vlans.${name}.interface is ${cfg.vlans.${name}.interface}: wanted one of ${concatStringsSep ", " (attrNames cfg.interfaces)}")
        (filter (name: !(cfg.interfaces ? ${cfg.vlans.${name}.interface})) (attrNames cfg.vlans)))
      (map (name: fail "nix-nos.vlans.${name}.id is ${toString cfg.vlans.${name}.id}, which another VLAN of ${cfg.vlans.${name}.interface} has")
        (filter (name: isTwice "${cfg.vlans.${name}.interface}/${toString cfg.vlans.${name}.id}") (attrNames cfg.vlans)))
      (map (route: fail "nix-nos.staticRoutes: ${route.destination} leaves by ${route.interface}: wanted one of ${concatStringsSep ", " names}")
        (filter (route: !(elem route.interface names)) cfg.staticRoutes))
      (lib.optional (cfg.bgp.enable && (cfg.bgp.asn == null || cfg.bgp.routerId == null)) (fail "nix-nos.bgp needs asn and routerId"))
    ];

    networking.vlans = lib.mapAttrs' (name: vlan: lib.nameValuePair name { inherit (vlan) id interface; }) cfg.vlans;
    networking.interfaces = listToAttrs (map (name:
      let it = cfg.interfaces.${name} or cfg.vlans.${name};
      in {
        inherit name;
        value = {
          useDHCP = it.dhcp or false;
          ipv4.addresses = map split it.addresses;
          ipv4.routes = routesOf name;
        } // (if it.mtu or null == null then { } else { inherit (it) mtu; });
      }) names);
    services.bird = mkIf cfg.bgp.enable { enable = true; config = bird; };
  };
}

# `ultracloud.cluster`, the only place a cluster is described in: a thin wrapper over lib/cluster-schema.nix. It names
# what runs on which node; this module turns on what runs on `ultracloud.node`, and configures it.
{ fleet }:
{ config, lib, ... }:
let
  inherit (builtins) attrNames concatLists elem filter listToAttrs map toJSON;
  inherit (lib) mkDefault mkIf mkOption types;
  cfg = config.ultracloud;
  evaluated = import ../lib/cluster-schema.nix { } cfg.cluster;
  good = cfg.cluster != null && evaluated.errors == [ ];
  state = evaluated.state;
  known = good && cfg.node != null && state.nodes ? ${cfg.node};
  node = state.nodes.${cfg.node};
  judge = (import ../lib/profile-judge.nix { }).judge;
  nodeConfig = import ../lib/node-config.nix { inherit fleet state; };
  unit = import ../lib/unit.nix { inherit fleet; };

  wanted = filter (name: fleet ? ${name}) node.components;
  notBuilt = filter (name: !(fleet ? ${name})) node.components;
  enabled = filter (name: cfg.components.${name}.enable) (attrNames fleet);
  fail = message: { assertion = false; inherit message; };
in
{
  options.ultracloud = {
    cluster = mkOption {
      type = types.nullOr types.attrs;
      default = null;
      description = "The cluster: nodes, classes, pools, rollouts, services, deployer. docs/reference/cluster.schema.json says what it may hold.";
    };
    node = mkOption { type = types.nullOr types.str; default = null; description = "Which node of the cluster this host is."; };
    peersCidr = mkOption {
      type = types.str;
      default = if good then cfg.clusterState.network.cidr else "127.0.0.0/8";
      defaultText = "network.cidr of the cluster";
      description = "Network that components here may call into; baked into their permissions.";
    };
    clusterState = mkOption { type = types.raw; readOnly = true; description = "The cluster with its defaults: the JSON that deployer and fleet-scheduler read."; };
    bootstrap = mkOption { type = types.raw; readOnly = true; description = "What each node is told about itself, by node."; };
  };

  config = {
    ultracloud.clusterState = if cfg.cluster == null then null else state;
    ultracloud.bootstrap = if cfg.cluster == null then { } else evaluated.bootstrap;

    assertions = concatLists [
      (if cfg.cluster == null then [ ] else map (message: fail "ultracloud.cluster: ${message}") evaluated.messages)
      (if good then map (message: fail "ultracloud.cluster: ${message}") (judge state) else [ ])
      (if good && cfg.node != null && !known
        then [ (fail "ultracloud.node: ${cfg.node} is no node of the cluster: wanted one of ${builtins.concatStringsSep ", " (attrNames state.nodes)}") ]
        else [ ])
      (if known then map (name: fail "ultracloud.cluster: ${name} on ${cfg.node} is not in this workspace: no services/${name} or agents/${name}") notBuilt else [ ])
      # One source: what the cluster does not know of would have neither keys nor a place in anybody's table.
      (if known then map (name: fail "ultracloud.components.${name} is enabled here, but ultracloud.cluster says nothing of it on ${cfg.node}")
        (filter (name: !(elem name (node.components ++ node.standby))) enabled) else [ ])
    ];

    networking.hostName = mkIf known (mkDefault cfg.bootstrap.${cfg.node}.hostname);
    environment.etc = mkIf good ({
      "ultracloud/cluster.json".text = toJSON state;
    } // (if known then { "ultracloud/node.json".text = toJSON cfg.bootstrap.${cfg.node}; } else { }));

    # No mkIf: it would ask for the names also where there is no cluster.
    ultracloud.components = lib.optionalAttrs known (listToAttrs (map (name: {
      inherit name;
      value = {
        enable = true;
        listenAddress = node.address;
        settings = nodeConfig.configOf cfg.node name;
        credentials = nodeConfig.credentialsOf cfg.node name;
        credentialSources = mkIf (name == "mtls-agent") (listToAttrs (map (other: {
          name = "${other}.identity.key";
          value = "${other}/identity.key";
        }) (node.components ++ node.standby)));
      };
    }) wanted));
  };
}

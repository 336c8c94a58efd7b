# What this host offers, for machines to read: /etc/ultracloud/product-surface.json. The smoke test of the trial VM holds
# the running host against it.
{ config, lib, ... }:
let
  inherit (builtins) attrNames filter listToAttrs map toJSON;
  cfg = config.ultracloud;
  here = filter (name: cfg.components.${name}.enable) (attrNames cfg.components);
in
{
  config.environment.etc = lib.mkIf (cfg.cluster != null) {
    "ultracloud/product-surface.json".text = toJSON {
      profile = cfg.cluster.profile or null;
      inherit (cfg) node;
      components = listToAttrs (map (name: { inherit name; value = cfg.components.${name}.settings.rpc.listen or null; }) here);
    };
  };
}

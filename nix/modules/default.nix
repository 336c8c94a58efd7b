# Everything that `ultracloud.*` can say. `packagesFor` and `helpersFor` come from the flake, with the node's packages.
{ fleet }:
let
  mkComponent = import ../mk-component.nix { inherit fleet; };
in
{
  imports = [
    (import ./cluster.nix { inherit fleet; })
    (import ./packages.nix { inherit fleet; })
    ./nix-nos.nix
    ./secrets.nix
    ./surface.nix
  ] ++ map (name: (mkComponent name).module) (builtins.attrNames fleet);
}

# The functions of nixpkgs' lib that the flake uses, and no more: whoever uses another one learns it here, not from
# silence. Written from the documented behaviour; the same checks run against the real lib when a path to it is given.
let
  inherit (builtins)
    attrNames concatLists concatStringsSep elem filter foldl' isAttrs isList listToAttrs map mapAttrs removeAttrs
    stringLength substring;
  types = import ./types.nix lib;
  modules = import ./modules.nix lib;
  lib = modules // {
    inherit types;
    inherit (builtins) concatStringsSep;
    mapAttrs' = f: set: listToAttrs (map (name: f name set.${name}) (attrNames set));
    nameValuePair = name: value: { inherit name value; };
    filterAttrs = keep: set: removeAttrs set (filter (name: !(keep name set.${name})) (attrNames set));
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    genAttrs = names: f: listToAttrs (map (name: { inherit name; value = f name; }) names);
    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: list: if condition then list else [ ];
    optionalAttrs = condition: set: if condition then set else { };
    optionalString = condition: text: if condition then text else "";
    concatMapStringsSep = separator: f: list: concatStringsSep separator (map f list);
    unique = foldl' (list: item: if elem item list then list else list ++ [ item ]) [ ];
    flatten = value: if isList value then concatLists (map lib.flatten value) else [ value ];
    recursiveUpdate = a: b: a // mapAttrs (name: value:
      if isAttrs value && isAttrs (a.${name} or null) then lib.recursiveUpdate a.${name} value else value) b;
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    hasSuffix = suffix: text:
      let from = stringLength text - stringLength suffix;
      in from >= 0 && substring from (stringLength suffix) text == suffix;
    removePrefix = prefix: text: if lib.hasPrefix prefix text then substring (stringLength prefix) (-1) text else text;
    any = builtins.any;
    all = builtins.all;
    escapeShellArg = value: "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] (toString value)}'";
    getExe = package: "${package}/bin/${package.meta.mainProgram or package.pname or package.name}";
    showOption = concatStringsSep ".";
    fetchers.proxyImpureEnvVars = [ "http_proxy" "https_proxy" "no_proxy" ];
  };
in
lib

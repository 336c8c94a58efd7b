# A value as TOML, for config.toml of a component. Tables are written inline, so that each top-level key is one line.
# Null is absent. Pure builtins.
let
  inherit (builtins) attrNames concatStringsSep filter isAttrs isBool isFloat isInt isList isString map match toJSON toString;

  key = name: if match "[A-Za-z0-9_-]+" name != null then name else toJSON name;
  pairs = set: map (name: "${key name} = ${value set.${name}}") (filter (name: set.${name} != null) (attrNames set));
  # A JSON string is a TOML string.
  value = it:
    if isString it then toJSON it
    else if isBool it then (if it then "true" else "false")
    else if isInt it then toString it
    else if isFloat it then toJSON it
    else if isList it then "[${concatStringsSep ", " (map value it)}]"
    else if isAttrs it then "{ ${concatStringsSep ", " (pairs it)} }"
    else throw "Cannot write a ${builtins.typeOf it} as TOML";
in
set: concatStringsSep "\n" (pairs set) + "\n"

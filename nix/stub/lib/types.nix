# The option types that the flake uses.
lib:
let
  inherit (builtins)
    attrNames concatLists concatStringsSep elem foldl' genList head isAttrs isBool isFunction isInt isList isString
    length listToAttrs map match toString;

  files = defs: concatStringsSep " and " (map (def: toString def.file) defs);
  # One value; the same one twice is no conflict.
  equal = loc: defs:
    if builtins.all (def: def.value == (head defs).value) defs then (head defs).value
    else throw "The option `${concatStringsSep "." loc}' has conflicting definition values:\n- In `${files defs}'";
  one = loc: defs:
    if length defs == 1 then (head defs).value
    else throw "The option `${concatStringsSep "." loc}' is defined multiple times while it's expected to be unique, in `${files defs}'";
  scalar = description: check: { inherit description check; merge = equal; };
  values = loc: defs: map (def: def.value) defs;

  types = rec {
    bool = scalar "boolean" isBool;
    int = scalar "signed integer" isInt;
    str = scalar "string" isString;
    path = scalar "absolute path" (value: builtins.isPath value || (isString value && match "/.*" value != null) || package.check value);
    package = scalar "package" (value: isAttrs value && value.type or null == "derivation");
    raw = { description = "raw value"; check = _: true; merge = one; };
    anything = { description = "anything"; check = _: true; merge = equal; };
    unspecified = anything;
    lines = { description = "strings concatenated with \"\\n\""; check = isString; merge = loc: defs: concatStringsSep "\n" (values loc defs); };
    commas = { description = "strings concatenated with \",\""; check = isString; merge = loc: defs: concatStringsSep "," (values loc defs); };
    ints = {
      between = low: high: scalar "integer between ${toString low} and ${toString high}" (value: isInt value && value >= low && value <= high);
      positive = scalar "positive integer" (value: isInt value && value > 0);
      unsigned = scalar "unsigned integer" (value: isInt value && value >= 0);
    };
    port = ints.between 0 65535;
    enum = list: scalar "one of ${concatStringsSep ", " (map builtins.toJSON list)}" (value: elem value list);
    strMatching = pattern: scalar "string matching the pattern ${pattern}" (value: isString value && match pattern value != null);
    attrs = { description = "attribute set"; check = isAttrs; merge = loc: defs: foldl' (set: def: set // def.value) { } defs; };
    nullOr = type: {
      description = "null or ${type.description}";
      check = value: value == null || type.check value;
      merge = loc: defs: if builtins.all (def: def.value == null) defs then null else type.merge loc defs;
    };
    either = a: b: {
      description = "${a.description} or ${b.description}";
      check = value: a.check value || b.check value;
      merge = loc: defs:
        if builtins.all (def: a.check def.value) defs then a.merge loc defs
        else if builtins.all (def: b.check def.value) defs then b.merge loc defs
        else equal loc defs;
    };
    oneOf = list: foldl' either (head list) (builtins.tail list);
    listOf = type: {
      description = "list of ${type.description}";
      check = isList;
      merge = loc: defs: concatLists (map (def: genList (i:
        lib.mergeDefinitions (loc ++ [ "[definition ${toString (i + 1)}]" ]) type [ { inherit (def) file; value = builtins.elemAt def.value i; } ])
        (length def.value)) defs);
    };
    attrsOf = type: {
      description = "attribute set of ${type.description}";
      check = isAttrs;
      merge = loc: defs:
        let names = attrNames (foldl' (all: def: all // def.value) { } defs);
        in listToAttrs (concatLists (map (name:
          let
            own = concatLists (map (def: if def.value ? ${name} then [ { inherit (def) file; value = def.value.${name}; } ] else [ ]) defs);
            # What only conditions that do not hold speak of is not there.
            there = builtins.any (def: holds def.value) own;
          in if there then [ { inherit name; value = lib.mergeDefinitions (loc ++ [ name ]) type own; } ] else [ ]) names));
    };
    lazyAttrsOf = attrsOf;
    functionTo = type: { description = "function to ${type.description}"; check = isFunction; merge = one; };
    submodule = modules: {
      description = "submodule";
      check = value: isAttrs value || isFunction value;
      merge = loc: defs: (lib.evalModules {
        prefix = loc;
        modules = (if isList modules then modules else [ modules ])
          ++ map (def: if isFunction def.value then def.value else { _file = def.file; config = def.value; }) defs
          ++ [ { config._module.args.name = builtins.elemAt loc (length loc - 1); } ];
      }).config;
    };
  };

  holds = value:
    if isAttrs value && value ? _type then
      if value._type == "if" then value.condition && holds value.content
      else if value._type == "merge" then builtins.any holds value.contents
      else if elem value._type [ "override" "order" ] then holds value.content
      else true
    else true;
in
types

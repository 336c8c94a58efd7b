# A small module system with the behaviour of nixpkgs' that the flake relies on: imports, options by declaration only,
# priorities, order, conditions that are pushed down before anything is looked at, and submodules.
lib:
let
  inherit (builtins)
    attrNames catAttrs concatLists concatStringsSep elem filter foldl' functionArgs head isAttrs isFunction isPath
    isString length map mapAttrs removeAttrs sort tail toString;

  tag = type: attrs: attrs // { _type = type; };
  is = type: value: isAttrs value && (value._type or null) == type;
  show = concatStringsSep ".";
  files = defs: concatStringsSep " and " (map (def: toString def.file) defs);

  mkIf = condition: content: tag "if" { inherit condition content; };
  mkMerge = contents: tag "merge" { inherit contents; };
  mkOverride = priority: content: tag "override" { inherit priority content; };
  mkOrder = order: content: tag "order" { inherit order content; };
  defaultPriority = 100;
  defaultOrder = 1000;

  # What definitions say for the names of an option set: conditions go down to the names, unasked.
  pushDown = value:
    if is "merge" value then concatLists (map pushDown value.contents)
    else if is "if" value then map (mapAttrs (_: mkIf value.condition)) (pushDown value.content)
    else if is "override" value then map (mapAttrs (_: mkOverride value.priority)) (pushDown value.content)
    else [ value ];

  # What definitions say for one option.
  discharge = value:
    if is "merge" value then concatLists (map discharge value.contents)
    else if is "if" value then (if value.condition then discharge value.content else [ ])
    else [ value ];
  discharged = defs: concatLists (map (def: map (value: def // { inherit value; }) (discharge def.value)) defs);
  priorityOf = def: if is "override" def.value then def.value.priority else defaultPriority;
  strongest = defs:
    let top = foldl' (least: def: if priorityOf def < least then priorityOf def else least) 9999 defs;
    in {
      priority = top;
      # Inside an override there may be conditions again.
      defs = discharged (map (def: if is "override" def.value then def // { value = def.value.content; } else def)
        (filter (def: priorityOf def == top) defs));
    };
  ordered = defs:
    let
      orderOf = def: if is "order" def.value then def.value.order else defaultOrder;
      sorted = sort (a: b: orderOf a < orderOf b) defs;
    in map (def: if is "order" def.value then def // { value = def.value.content; } else def) sorted;

  # The value that definitions give at a place, by the type's own way to bring them together.
  mergeDefinitions = loc: type: defs:
    let
      all = ordered (strongest (discharged defs)).defs;
      wrong = filter (def: !(type.check def.value)) all;
    in
    if all == [ ] then throw "The option `${show loc}' was accessed but has no value defined. Try setting the option."
    else if wrong != [ ] then
      throw "A definition for option `${show loc}' is not of type `${type.description}'. Definition values:\n- In `${files wrong}'"
    else type.merge loc all;

  mergeOption = loc: option: defs:
    let
      given = map (value: { file = "the option's default"; value = mkOverride 1500 value; })
        (if option ? default then [ option.default ] else [ ]);
      value = mergeDefinitions loc option.type (defs ++ given);
    in
    if (option.readOnly or false) && length (discharged defs) > 1 then throw "The option `${show loc}' is read-only, but it's set multiple times"
    else (option.apply or (x: x)) value;

  # declarations: [{ file; value = tree of options; }], definitions: [{ file; value = tree of config; }]
  mergeTree = loc: freeform: declarations: definitions:
    let
      definedIn = concatLists (map (def: map (value: { inherit (def) file; inherit value; }) (pushDown def.value)) definitions);
      notSets = filter (def: !(isAttrs def.value)) definedIn;
      declared = foldl' (names: decl: names // decl.value) { } declarations;
      defsOf = name: concatLists (map
        (def: if def.value ? ${name} then [ { inherit (def) file; value = def.value.${name}; } ] else [ ]) definedIn);
      declsOf = name: filter (decl: decl.value ? ${name}) declarations;
      unknown = filter (name: !(declared ? ${name})) (attrNames (foldl' (names: def: names // def.value) { } definedIn));
      one = name:
        let decls = map (decl: { inherit (decl) file; value = decl.value.${name}; }) (declsOf name);
        in
        if filter (decl: is "option" decl.value) decls == [ ] then mergeTree (loc ++ [ name ]) null decls (defsOf name)
        else if length decls > 1 then throw "The option `${show (loc ++ [ name ])}' in `${files (tail decls)}' is already declared in `${toString (head decls).file}'."
        else mergeOption (loc ++ [ name ]) (head decls).value (defsOf name);
      known = mapAttrs (name: _: one name) declared;
      free = mergeDefinitions loc freeform
        (map (def: def // { value = removeAttrs def.value (attrNames declared); }) definedIn);
    in
    if notSets != [ ] then throw "The option set `${show loc}' is given a value that is no set, in `${files notSets}'"
    else if unknown != [ ] && freeform == null then
      throw "The option `${show (loc ++ [ (head unknown) ])}' does not exist. Definition values:\n- In `${files (defsOf (head unknown))}'"
    else if unknown == [ ] then known else known // free;

  # A module as the four things it can have.
  normalise = file: raw:
    let explicit = raw ? options || raw ? config;
    in {
      file = raw._file or file;
      imports = raw.imports or [ ];
      options = raw.options or { };
      config = if explicit then raw.config or { } else removeAttrs raw [ "imports" "_file" "key" "freeformType" ];
      freeformType = raw.freeformType or null;
    };

  collect = args: seen: list:
    foldl' (state: module:
      let
        path = isPath module || isString module;
        key = if path then toString module else null;
        file = if path then module else if isAttrs module && module ? _file then module._file else "<inline>";
        loaded = if path then import module else module;
        called = if isFunction loaded
          then loaded (args.always // mapAttrs (name: _: args.named name) (removeAttrs (functionArgs loaded) (attrNames args.always)))
          else loaded;
        one = normalise file called;
        inner = collect args (state.seen ++ (if key == null then [ ] else [ key ])) one.imports;
      in
      if key != null && elem key state.seen then state
      else { seen = inner.seen; modules = state.modules ++ inner.modules ++ [ one ]; })
      { inherit seen; modules = [ ]; } list;

  evalModules = arguments@{ modules, specialArgs ? { }, prefix ? [ ], class ? null }:
    let
      args = {
        always = { inherit lib; inherit (result) config options; } // specialArgs;
        named = name: result.config._module.args.${name} or (throw "a module wants the argument ${name}, which nobody gives");
      };
      all = (collect args [ ] modules).modules;
      # What the system itself has.
      own = {
        file = "<the module system>";
        value._module = {
          args = lib.mkOption { type = lib.types.lazyAttrsOf lib.types.raw; default = { }; };
          check = lib.mkOption { type = lib.types.bool; default = true; };
        };
      };
      declarations = [ own ] ++ map (module: { inherit (module) file; value = module.options; }) all;
      definitions = map (module: { inherit (module) file; value = module.config; }) all;
      freeforms = filter (type: type != null) (catAttrs "freeformType" all);
      result = {
        config = mergeTree prefix (if freeforms == [ ] then null else head freeforms) declarations definitions;
        options = foldl' lib.recursiveUpdate { } (catAttrs "value" declarations);
        extendModules = { modules ? [ ], specialArgs ? { } }: evalModules (arguments // {
          modules = arguments.modules ++ modules;
          specialArgs = (arguments.specialArgs or { }) // specialArgs;
        });
        inherit class;
      };
    in result // { config = removeAttrs result.config [ "_module" ]; };
in
{
  inherit evalModules mkIf mkMerge mkOverride mkOrder mergeDefinitions;
  mkOption = tag "option";
  mkDefault = mkOverride 1000;
  mkForce = mkOverride 50;
  mkVMOverride = mkOverride 10;
  mkBefore = mkOrder 500;
  mkAfter = mkOrder 1500;
}

# Holds a value against a JSON Schema (the part of draft 2020-12 that docs/reference/cluster.schema.json is written in),
# in pure builtins. `check schema value` answers { value; errors; }: the value with the schema's defaults filled in, and
# [{ path; message; }] for what is wrong, in order. A keyword it does not know is an error of the schema, not silence.
let
  inherit (builtins)
    attrNames concatLists concatStringsSep elem elemAt filter foldl' genList hasAttr head isAttrs isBool isFloat isInt
    isList isString length listToAttrs map match replaceStrings split stringLength toJSON;

  known = [
    "$schema" "title" "description" "default" "type" "const" "enum" "pattern" "format" "minLength" "maxLength" "minimum"
    "maximum" "items" "minItems" "maxItems" "properties" "required" "additionalProperties" "propertyNames" "oneOf"
  ];

  # What JavaScript writes and POSIX does not: escaped slashes, groups that do not capture, and looks ahead. Each look
  # ahead in use says "no step upwards" or "not absolute"; those are asked in words.
  posix = text:
    let
      plain = replaceStrings
        [ "\\/" "(?:" "[^\\0]" "\\." "\\{" "\\}" "\\$" ] [ "/" "(" "." "[.]" "[{]" "[}]" "@DOLLAR@" ] text;
      withoutAnchors = replaceStrings [ "^" "$" ] [ "" "" ] (replaceStrings [ "[^" ] [ "@NOT@" ] plain);
      looks = split "\\(\\?!([^()]|\\([^()]*\\))*\\)" withoutAnchors;
    in replaceStrings [ "@NOT@" "@DOLLAR@" ] [ "[^" "[$]" ] (concatStringsSep "" (filter isString looks));
  looksAhead = text: match ".*\\(\\?!.*" text != null;
  refusesAbsolute = text: match "\\^\\(\\?!\\\\/\\).*" text != null;
  stepsUp = value: elem ".." (filter isString (split "/" value)) || (elem "." (filter isString (split "/" value)));
  fits = pattern: value:
    match (posix pattern) value != null
    && (!looksAhead pattern || !stepsUp value)
    && (!refusesAbsolute pattern || match "/.*" value == null);

  typeOf = value:
    if value == null then "null"
    else if isBool value then "boolean"
    else if isInt value then "integer"
    else if isFloat value then "number"
    else if isString value then "string"
    else if isList value then "array"
    else if isAttrs value then "object"
    else builtins.typeOf value;
  isOf = type: value: typeOf value == type || (type == "number" && isInt value);

  err = path: message: [ { inherit path message; } ];
  only = condition: errors: if condition then errors else [ ];
  show = value: let text = toJSON value; in if stringLength text > 80 then "${builtins.substring 0 77 text}..." else text;

  checkAt = path: schema: value:
    let
      unknown = filter (key: !(elem key known)) (attrNames schema);
      type = schema.type or null;
      wrongType = type != null && !(isOf type value);
    in
    if unknown != [ ] then throw "the schema at ${show path} uses ${concatStringsSep ", " unknown}, which json-schema.nix does not know"
    else if schema ? oneOf then checkOneOf path schema.oneOf value
    else if wrongType then { inherit value; errors = err path "wanted ${type}, not ${typeOf value} ${show value}"; }
    else if isAttrs value then checkObject path schema value
    else if isList value then checkList path schema value
    else { inherit value; errors = checkScalar path schema value; };

  checkScalar = path: schema: value:
    only (schema ? const && value != schema.const) (err path "wanted ${show schema.const}, not ${show value}")
    ++ only (schema ? enum && !(elem value schema.enum)) (err path "wanted one of ${concatStringsSep ", " (map show schema.enum)}, not ${show value}")
    ++ only (schema ? minimum && value < schema.minimum) (err path "wanted at least ${show schema.minimum}, not ${show value}")
    ++ only (schema ? maximum && value > schema.maximum) (err path "wanted at most ${show schema.maximum}, not ${show value}")
    ++ only (schema ? minLength && stringLength value < schema.minLength) (err path "wanted at least ${show schema.minLength} characters")
    ++ only (schema ? maxLength && stringLength value > schema.maxLength) (err path "wanted at most ${show schema.maxLength} characters")
    ++ only (schema ? pattern && !(fits schema.pattern value)) (err path "${show value} does not have the form ${schema.pattern}")
    ++ only ((schema.format or null) == "uri" && match "[a-z][a-z0-9+.-]*://[^ ]+" value == null) (err path "wanted a URL, not ${show value}");

  checkList = path: schema: value:
    let
      results = genList (i: checkAt (path ++ [ (toString i) ]) (schema.items or { }) (elemAt value i)) (length value);
    in {
      value = map (r: r.value) results;
      errors =
        only (schema ? minItems && length value < schema.minItems) (err path "wanted at least ${show schema.minItems} items")
        ++ only (schema ? maxItems && length value > schema.maxItems) (err path "wanted at most ${show schema.maxItems} items")
        ++ concatLists (map (r: r.errors) results);
    };

  checkObject = path: schema: value:
    let
      properties = schema.properties or { };
      # A property with a default is there whether it was written or not.
      filled = listToAttrs (map (name: { inherit name; value = properties.${name}.default; })
        (filter (name: properties.${name} ? default) (attrNames properties))) // value;
      rest = schema.additionalProperties or { };
      missing = filter (name: !(hasAttr name filled)) (schema.required or [ ]);
      one = name:
        if properties ? ${name} then checkAt (path ++ [ name ]) properties.${name} filled.${name}
        else if rest == false then {
          value = filled.${name};
          errors = err (path ++ [ name ]) "is not known: wanted one of ${concatStringsSep ", " (attrNames properties)}";
        }
        else checkAt (path ++ [ name ]) rest filled.${name};
      nameErrors = name:
        only (schema ? propertyNames && !(properties ? ${name}))
          (map (e: e // { path = path ++ [ name ]; message = "as a name: ${e.message}"; })
            (checkScalar path schema.propertyNames name));
      names = attrNames filled;
      results = map (name: { inherit name; result = one name; }) names;
    in {
      value = listToAttrs (map ({ name, result }: { inherit name; inherit (result) value; }) results);
      errors = map (name: { path = path ++ [ name ]; message = "is missing"; }) missing
        ++ concatLists (map ({ name, result }: nameErrors name ++ result.errors) results);
    };

  # Objects told apart by the constant of one property: errors are those of the one that is meant.
  checkOneOf = path: options: value:
    let
      results = map (option: checkAt path option value) options;
      good = filter (r: r.errors == [ ]) results;
      constants = option: filter (name: option.properties.${name} ? const) (attrNames (option.properties or { }));
      meant = filter
        (option: isAttrs value && foldl' (all: name: all && (value.${name} or null) == option.properties.${name}.const) true (constants option))
        options;
      choices = concatLists (map (option: map (name: "${name} = ${show option.properties.${name}.const}") (constants option)) options);
    in
    if good != [ ] then head good
    else if meant != [ ] then checkAt path (head meant) value
    else { inherit value; errors = err path "wanted ${concatStringsSep " or " choices}"; };
in
{
  check = checkAt [ ];
  # "nodes.node01.address: must be inside 10.77.0.0/24"
  message = { path, message }: "${if path == [ ] then "the cluster" else concatStringsSep "." path}: ${message}";
}

# Every component of the workspace, read from its component.json, as `loadFleet` of lib/launch reads it: a folder of
# services/ or agents/ with that file. Nobody keeps a list by hand. Pure builtins.
#
#   fleet.chainfire = { manifest = { name; listen; calls; ...; }; dir = "services/chainfire"; }
{ root ? ../.. }:
let
  inherit (builtins) attrNames concatLists filter fromJSON listToAttrs map pathExists readDir readFile;
  jsonSchema = import ./json-schema.nix;
  schema = fromJSON (readFile (root + "/docs/reference/component.schema.json"));

  foldersOf = room:
    let entries = readDir (root + "/${room}");
    in filter (name: entries.${name} == "directory" && pathExists (root + "/${room}/${name}/component.json")) (attrNames entries);

  read = room: name:
    let
      file = "${room}/${name}/component.json";
      checked = jsonSchema.check schema (fromJSON (readFile (root + "/${file}")));
    in
    if checked.errors != [ ] then
      throw "Cannot use ${file}: ${jsonSchema.message (builtins.head checked.errors)}"
    else if checked.value.name != name then throw "Cannot use ${file}: its name is ${checked.value.name}, wanted ${name}"
    else { manifest = checked.value; dir = "${room}/${name}"; };
in
listToAttrs (concatLists (map
  (room: map (name: { inherit name; value = read room name; }) (foldersOf room))
  [ "services" "agents" ]))

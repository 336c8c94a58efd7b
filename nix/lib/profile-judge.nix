# What a cluster lacks of the profile it names, and what it has that the profile does not know: `judgeComponents` of the
# test cluster, as sentences. The profiles themselves are cli/quickstart/profiles.json. Pure builtins.
{ profilesFile ? ../../cli/quickstart/profiles.json }:
let
  inherit (builtins) attrNames concatLists concatStringsSep elem filter fromJSON map readFile;
  data = fromJSON (readFile profilesFile);
  only = condition: list: if condition then list else [ ];
in
{
  inherit (data) profiles companions;

  judge = state:
    let
      profile = data.profiles.${state.profile};
      names = attrNames state.nodes;
      hosts = component: filter (node: elem component state.nodes.${node}.components) names;
      lacking = component: filter
        (node: state.nodes.${node}.role == "control-plane" && !(elem component state.nodes.${node}.components)) names;
      known = name:
        elem name profile.required || elem name profile.optional || (data.companions ? ${name} && known data.companions.${name});
      missing = component:
        only (hosts component == [ ]) [ "${state.profile} requires ${component}, which runs on no node" ]
        ++ only (hosts component != [ ] && elem component profile.requiredOnEach)
          (map (node: "${state.profile} requires ${component} on each control-plane node, and ${node} lacks it") (lacking component));
      foreign = node: map
        (component: "${component} on ${node} is no part of ${state.profile}: wanted one of ${concatStringsSep ", " (profile.required ++ profile.optional)}")
        (filter (component: !(known component)) (state.nodes.${node}.components ++ state.nodes.${node}.standby));
    in
    concatLists (map missing profile.required) ++ concatLists (map foreign names);
}

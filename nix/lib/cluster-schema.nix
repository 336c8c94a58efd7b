# The one source of a cluster: `ultracloud.cluster` is held against the schema that deployer, fleet-scheduler and the
# test cluster use, and everything that follows from it is made here. Pure builtins: it needs no nixpkgs.
#
#   evaluate = import ./cluster-schema.nix { };
#   (evaluate cluster).state            the state with defaults; throws every error with its path
#   (evaluate cluster).json             the same as text, for deployer, fleet-scheduler and agents
#   (evaluate cluster).errors           what is wrong, without throwing
#   (evaluate cluster).bootstrap.node01 everything one node is told about itself
{ schemaFile ? ../../docs/reference/cluster.schema.json
, nodeSchemaFile ? ../../docs/reference/cluster-node.schema.json
}:
let
  inherit (builtins)
    attrNames concatLists concatStringsSep elem elemAt filter foldl' fromJSON genList hasAttr head length listToAttrs map
    match readFile removeAttrs toJSON;
  jsonSchema = import ./json-schema.nix;
  # Defaults of the top are filled in by the schema itself.
  schema = fromJSON (readFile schemaFile);

  err = path: message: [ { inherit path message; } ];
  only = condition: errors: if condition then errors else [ ];
  each = attrs: work: concatLists (map (name: work name attrs.${name}) (attrNames attrs));
  indexed = list: work: concatLists (genList (i: work (toString i) (elemAt list i)) (length list));

  number = text: fromJSON (if match "0+" text != null then "0" else head (match "0*([1-9][0-9]*)" text));
  bitsOf = address:
    let parts = match "([0-9]+)[.]([0-9]+)[.]([0-9]+)[.]([0-9]+)" address;
    in foldl' (sum: part: sum * 256 + number part) 0 parts;
  power = base: exponent: foldl' (product: _: product * base) 1 (genList (i: i) exponent);
  networkOf = cidr: address:
    let bits = number (elemAt (match ".*/([0-9]+)" cidr) 0);
    in bitsOf address / power 2 (32 - bits);
  inside = cidr: address: networkOf cidr (head (match "(.*)/[0-9]+" cidr)) == networkOf cidr address;

  mustExist = known: name: path: what:
    only (name != null && !(hasAttr name known))
      (err path "names the ${what} ${name}, which is not there: wanted ${
        if known == { } then "a ${what} to exist" else "one of ${concatStringsSep ", " (attrNames known)}"
      }");

  # One owner for each value of a field over all nodes.
  unique = nodes: field: what: taken:
    (foldl' (state: name:
      let value = nodes.${name}.${field} or null; key = toString value;
      in if value == null then state
      else if hasAttr key state.seen then state // {
        errors = state.errors ++ err [ "nodes" name field ] "is the ${what} of ${state.seen.${key}}";
      }
      else state // { seen = state.seen // { ${key} = name; }; })
      { seen = taken; errors = [ ]; } (attrNames nodes)).errors;

  overlay = cluster: name: part:
    let node = cluster.nodes.${name}; shared = cluster.classes.${node.class or ""} or { };
    in if !(shared ? ${part}) && !(node ? ${part}) then null else (shared.${part} or { }) // (node.${part} or { });

  # A part that is whole: what class and node say together must be enough.
  partSchema = part: (fromJSON (readFile nodeSchemaFile)).properties.${part};

  nodeErrors = cluster:
    only (cluster.nodes == { }) (err [ "nodes" ] "must have a node")
    ++ only (!(inside cluster.network.cidr cluster.network.operatorAddress))
      (err [ "network" "operatorAddress" ] "must be inside ${cluster.network.cidr}")
    ++ unique cluster.nodes "address" "address" { ${cluster.network.operatorAddress} = "the operator"; }
    ++ unique cluster.nodes "member" "member" { }
    ++ unique cluster.nodes "serial" "serial" { }
    ++ each cluster.nodes (name: node:
      only (!(inside cluster.network.cidr node.address)) (err [ "nodes" name "address" ] "must be inside ${cluster.network.cidr}")
      ++ concatLists (map (component: only (elem component node.components) (err [ "nodes" name "standby" ] "${component} runs here already")) node.standby)
      ++ mustExist cluster.classes (node.class or null) [ "nodes" name "class" ] "class"
      ++ mustExist cluster.pools (node.pool or null) [ "nodes" name "pool" ] "pool"
      ++ planErrors cluster name);

  planErrors = cluster: name:
    let
      plan = overlay cluster name "install_plan";
      desired = overlay cluster name "desired_system";
      whole = part: value: only (value != null) (map (error: {
        path = [ "nodes" name part ] ++ error.path;
        message = "${concatStringsSep "." error.path} is missing or wrong here and in its class: ${error.message}";
      }) (jsonSchema.check (partSchema part) value).errors);
      big = plan.expected_disk_bytes_min or 0;
    in whole "install_plan" plan ++ whole "desired_system" desired
    ++ only (plan != null && plan ? expected_disk_bytes_max && big > plan.expected_disk_bytes_max)
      (err [ "nodes" name "install_plan" "expected_disk_bytes_max" ] "must not be below expected_disk_bytes_min");

  covers = cluster: rollout: name:
    let node = cluster.nodes.${name};
    in elem name rollout.nodes || elem (node.class or "") rollout.classes || elem (node.pool or "") rollout.pools;

  rolloutErrors = cluster:
    each cluster.rollouts (name: rollout:
      indexed rollout.classes (i: item: mustExist cluster.classes item [ "rollouts" name "classes" i ] "class")
      ++ indexed rollout.pools (i: item: mustExist cluster.pools item [ "rollouts" name "pools" i ] "pool")
      ++ indexed rollout.nodes (i: item: mustExist cluster.nodes item [ "rollouts" name "nodes" i ] "node")
      ++ only (rollout.classes ++ rollout.pools ++ rollout.nodes == [ ]) (err [ "rollouts" name ] "must name classes, pools or nodes"))
    ++ (foldl' (state: name:
      let inside = filter (covers cluster cluster.rollouts.${name}) (attrNames cluster.nodes);
      in {
        seen = state.seen // listToAttrs (map (node: { name = node; value = name; }) inside);
        errors = state.errors ++ concatLists (map (node: only (hasAttr node state.seen)
          (err [ "rollouts" name ] "covers ${node}, which ${state.seen.${node}} covers already")) inside);
      }) { seen = { }; errors = [ ]; } (attrNames cluster.rollouts)).errors;

  serviceErrors = cluster: each cluster.services (name: service:
    let
      path = [ "services" name ];
      check = service.healthCheck or null;
      secretNames = map (secret: secret.name) service.secrets;
      twice = filter (i: elem (elemAt secretNames i) (genList (elemAt secretNames) i)) (genList (i: i) (length secretNames));
    in
    indexed service.classes (i: item: mustExist cluster.classes item (path ++ [ "classes" i ]) "class")
    ++ indexed service.pools (i: item: mustExist cluster.pools item (path ++ [ "pools" i ]) "pool")
    ++ indexed service.affinity (i: item: mustExist cluster.services item.service (path ++ [ "affinity" i "service" ]) "service")
    ++ only ((service ? command) == (service ? closure)) (err (path ++ [ "command" ]) "must be there when closure is not, and only then")
    ++ only (service.restart.backoffMsMin > service.restart.backoffMsMax) (err (path ++ [ "restart" "backoffMsMax" ]) "must not be below backoffMsMin")
    ++ only (check != null && check.kind != "exec" && (service.ports.${check.port} or { protocol = ""; }).protocol != "tcp")
      (err (path ++ [ "healthCheck" "port" ]) "must name a TCP port of the service, not ${check.port or ""}")
    ++ indexed service.constraints (i: constraint:
      let wants = elem constraint.operator [ "in" "not-in" ];
      in only (wants != (constraint.values != [ ])) (err (path ++ [ "constraints" i "values" ])
        (if wants then "must hold what ${constraint.operator} compares with" else "has no meaning with ${constraint.operator}")))
    ++ concatLists (map (i: err (path ++ [ "secrets" (toString i) "name" ]) "${elemAt secretNames i} is there twice") twice));

  labelsOf = cluster: name:
    let node = cluster.nodes.${name};
    in (if node ? pool then cluster.pools.${node.pool}.labels // { inherit (node) pool; } else { })
    // (if node ? class then cluster.classes.${node.class}.labels // { inherit (node) class; } else { })
    // (if node ? failureDomain then { "failure-domain" = node.failureDomain; } else { })
    // node.labels // { node = name; inherit (node) role; };

  filled = part: value: (jsonSchema.check (partSchema part) value).value;
  bootstrapOf = cluster: name:
    let
      node = cluster.nodes.${name};
      plan = overlay cluster name "install_plan";
      desired = overlay cluster name "desired_system";
      target = plan.target_system or (if desired == null then null else desired.target_system or null);
    in {
      inherit (cluster) clusterId deployer;
      node = name;
      hostname = node.hostname or name;
      inherit (node) role address components;
      labels = labelsOf cluster name;
    }
    // (if node ? class then { inherit (node) class; } else { })
    // (if node ? pool then { inherit (node) pool; } else { })
    // (if plan == null then { } else { install_plan = filled "install_plan" (plan // (if target == null then { } else { target_system = target; })); })
    // (if desired == null then { } else { desired_system = filled "desired_system" desired; });
in
cluster:
let
  shape = jsonSchema.check schema (removeAttrs cluster [ "_module" ]);
  # References have a meaning only in a state of the right shape.
  errors = if shape.errors != [ ] then shape.errors
    else nodeErrors shape.value ++ rolloutErrors shape.value ++ serviceErrors shape.value;
  messages = map jsonSchema.message errors;
  state = if errors == [ ] then shape.value
    else throw "Cannot use ultracloud.cluster:\n${concatStringsSep "\n" (map (text: "  ${text}") messages)}";
in
{
  inherit errors messages state;
  json = toJSON state;
  bootstrap = listToAttrs (map (name: { inherit name; value = bootstrapOf state name; }) (attrNames state.nodes));
}

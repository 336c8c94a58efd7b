# The configuration of each component on a node, from the cluster alone: `configOf` of the test cluster, for a node that
# is a host of its own. Keys and other secrets are credentials of the unit; certificates lie beside the configuration,
# where mtls-agent renews them. Pure builtins; `state` is (cluster-schema cluster).state.
{ fleet, state }:
let
  inherit (builtins) attrNames elem elemAt filter head length listToAttrs map match toString;
  placement = import ./placement.nix { inherit fleet; };
  inherit (placement) configDir credentialsDir listenerPort;

  # One machine that speaks to itself needs no certificates; anything else has them on every listener.
  isLoopback = match "127[.].*" state.network.cidr != null;
  scheme = if isLoopback then "http" else "https";
  tls = component: if isLoopback then { } else { tls = {
    certFile = "${configDir component}/tls.crt";
    keyFile = "${configDir component}/tls.key";
    caFile = "${configDir component}/tls-ca.crt";
  }; };

  addressOf = node: listener: "${state.nodes.${node}.address}:${toString (listenerPort listener)}";
  urlOf = node: listener: "${scheme}://${addressOf node listener}";
  nodesWith = component: filter (node: elem component state.nodes.${node}.components) (attrNames state.nodes);
  credential = component: file: "${credentialsDir component}/${file}";

  peersOf = component: listToAttrs (builtins.concatLists (map (callee:
    let parts = match "([a-z0-9-]+)[.]([a-z]+)" callee; name = head parts; nodes = nodesWith name;
    in if elemAt parts 1 != "rpc" || nodes == [ ] then [ ]
    else [ { inherit name; value = map (node: urlOf node callee) nodes; } ]) fleet.${component}.manifest.calls));

  # One replica of a store; a replica alone decides alone.
  membership = node: component:
    let nodes = nodesWith component; memberId = state.nodes.${node}.member;
    in if length nodes < 2 then { inherit memberId; } else {
      inherit memberId;
      members = map (name: {
        id = state.nodes.${name}.member;
        inherit name;
        peerUrl = urlOf name "${component}.peer";
        clientUrl = urlOf name "${component}.rpc";
      }) nodes;
      peer = { listen = addressOf node "${component}.peer"; } // tls component;
    };

  own = node: component:
    let spec = state.nodes.${node}; optional = name: if spec ? ${name} then { ${name} = spec.${name}; } else { };
    in {
      chainfire = membership node component;
      flaredb = membership node component;
      iam = {
        issuer = urlOf (head (nodesWith "iam")) "iam.rpc";
        adminTokenFile = credential "iam" "admin.token";
      } // (if isLoopback then { mode = "dev"; } else {
        mode = "production";
        signingKeyFile = credential "iam" "signing.key";
        masterKeyFile = credential "iam" "master.key";
        authorityCertFile = credential "iam" "authority.crt";
        authorityKeyFile = credential "iam" "authority.key";
      });
      deployer = {
        bootstrap = { listen = addressOf node "deployer.bootstrap"; } // tls component
          // (if state.deployer ? url then { inherit (state.deployer) url; } else { });
      };
      mtls-agent.certificates = map (name: {
        identity = "svc/${name}";
        instance = node;
        identityKeyFile = credential "mtls-agent" "${name}.identity.key";
        dir = configDir name;
        authoritiesFile = "tls-ca.crt";
        names = [ spec.address ];
      }) (spec.components ++ spec.standby);
      vm-agent = { nodeName = node; agentUrl = urlOf node "vm-agent.rpc"; labels = { inherit node; } // spec.labels; };
      net-agent = { nodeName = node; agentUrl = urlOf node "net-agent.rpc"; };
      nix-agent = { nodeName = node; };
      node-agent = { nodeName = node; agentUrl = urlOf node "node-agent.rpc"; labels = { inherit node; } // spec.labels; }
        // optional "class" // optional "pool";
    }.${component} or { };
in
{
  inherit isLoopback nodesWith;
  # What a unit must load beside its own identity, as names of files in the node's directory of secrets.
  credentialsOf = node: component:
    let spec = state.nodes.${node};
    in if component == "iam" then
      [ "admin.token" ] ++ (if isLoopback then [ ] else [ "signing.key" "master.key" "authority.crt" "authority.key" ])
    else if component == "mtls-agent" then map (name: "${name}.identity.key") (spec.components ++ spec.standby)
    else [ ];

  configOf = node: component:
    let peers = peersOf component;
    in
    # A tool has its own few settings, and defaults for all of them.
    if fleet.${component}.manifest.kind == "tool" then state.config.${component} or { }
    else {
      inherit (state) clusterId;
      instance = node;
      stateDir = placement.stateDir component;
      runDir = placement.runDir component;
      identityKeyFile = credential component "identity.key";
      inherit (placement) trustFile;
    }
    // (if fleet.${component}.manifest.listen ? rpc then { rpc = { listen = addressOf node "${component}.rpc"; } // tls component; } else { })
    // (if peers == { } then { } else { inherit peers; })
    // own node component
    // (state.config.${component} or { });
}

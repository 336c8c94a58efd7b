# Three nodes that decide together, deployer on the first; two workers and a gateway beside them.
let
  core = [ "chainfire" "flaredb" "iam" "nix-agent" "mtls-agent" ];
  controlPlane = member: more: {
    role = "control-plane";
    address = "10.77.0.${toString (10 + member)}";
    inherit member;
    components = core ++ more;
    class = "control-plane";
  };
  worker = member: {
    role = "worker";
    address = "10.77.0.${toString (10 + member)}";
    inherit member;
    components = [ "vm-agent" "node-agent" "nix-agent" "mtls-agent" ];
    class = "worker";
    pool = "native";
  };
in
{
  version = 1;
  clusterId = "ultracloud";
  profile = "ha-control-plane";
  network = { cidr = "10.77.0.0/24"; operatorAddress = "10.77.0.1"; };
  nodes = {
    node01 = controlPlane 1 [ "prismnet" "plasmavmc" "deployer" "fleet-scheduler" ];
    node02 = controlPlane 2 [ ];
    node03 = controlPlane 3 [ ];
    node04 = worker 4;
    node05 = worker 5;
    node06 = { role = "gateway"; address = "10.77.0.16"; member = 6; };
  };
  classes = {
    control-plane.description = "Decides together with the others of its class";
    worker.description = "Runs tenants' VMs and services of the hosts";
  };
  pools.native = { description = "Workers that stand in for each other"; readyMin = 1; };
  rollouts = {
    control-plane = { classes = [ "control-plane" ]; batchSize = 1; maxUnavailable = 1; };
    workers = { classes = [ "worker" ]; batchSize = 1; maxUnavailable = 1; };
  };
  deployer.url = "https://10.77.0.11:7152";
}

# The VM platform on one machine that speaks to itself: what the quickstart VM runs.
{
  version = 1;
  clusterId = "trial";
  profile = "single-node-dev";
  network = { cidr = "127.0.0.0/8"; operatorAddress = "127.0.0.2"; };
  nodes.single-node = {
    role = "control-plane";
    address = "127.0.0.1";
    member = 1;
    components = [ "chainfire" "flaredb" "iam" "prismnet" "plasmavmc" "vm-agent" ];
    hostname = "ultracloud";
  };
  # A trial runs anywhere; where a guest boots under KVM it is used.
  config.vm-agent.accelerator = "auto";
}

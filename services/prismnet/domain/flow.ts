import { contains, parseIp, parseNetwork } from "./ipv4.ts";
import { parseIp6, parseNetwork6 } from "./ipv6.ts";
import type {
  AclRule,
  AddressPool,
  Direction,
  FloatingIp,
  NatGateway,
  NetworkAcl,
  Peering,
  Port,
  Router,
  Rule,
  SecurityGroup,
  Subnet,
} from "./types.ts";

/** Whether a flow passes, as the records say: what a person needs to know why it does not. */

interface Named<T> {
  readonly id: string;
  readonly name: string;
  readonly value: T;
}

/** The records that decide; everything of the cluster, as peers and floating IPs may be others'. */
export interface FlowState {
  readonly subnets: readonly Named<Subnet>[];
  readonly groups: readonly Named<SecurityGroup>[];
  readonly ports: readonly Named<Port>[];
  readonly acls: readonly Named<NetworkAcl>[];
  readonly routers: readonly Named<Router>[];
  readonly pools: readonly Named<AddressPool>[];
  readonly gateways: readonly Named<NatGateway>[];
  readonly floatingIps: readonly Named<FloatingIp>[];
  readonly peerings: readonly Named<Peering>[];
}

/** The first packet of a connection. */
export interface Flow {
  readonly source: string;
  readonly destination: string;
  readonly protocol: "tcp" | "udp" | "icmp";
  /** 0 for icmp. */
  readonly port: number;
}

export interface FlowStep {
  readonly stage: "security group" | "network ACL" | "route" | "neighbour" | "NAT";
  readonly allowed: boolean;
  readonly text: string;
  /** Id of what decided; empty: nothing that has one. */
  readonly by: string;
}

export interface FlowAnswer {
  readonly allowed: boolean;
  /** In order; the last one decided. */
  readonly steps: readonly FlowStep[];
  /** Where it leaves the network; undefined: nowhere. */
  readonly leavesBy?: { readonly kind: "port" | "pool"; readonly id: string };
  /** Whom the guest hands it to: the subnet's router, a port of its own subnet, or nobody who answers for the address. */
  readonly firstHop: { readonly kind: "router" | "nobody" } | { readonly kind: "port"; readonly id: string };
}

/** The answer without what is known from the start. */
type Outcome = Omit<FlowAnswer, "firstHop">;

const isV6 = (ip: string) => ip.includes(":");

/** Whether an address is in a CIDR of its family. */
export function within(ip: string, cidr: string): boolean {
  if (isV6(ip)) {
    const network = parseNetwork6(cidr);
    const groups = parseIp6(ip);
    return network !== undefined && groups !== undefined && groups.every((group, i) => {
      const bits = Math.min(16, Math.max(0, network.prefix - i * 16));
      return group >> (16 - bits) === network.groups[i]! >> (16 - bits);
    });
  }
  const network = parseNetwork(cidr);
  const address = parseIp(ip);
  return network !== undefined && address !== undefined && contains(network, address);
}

const addressesOf = (port: Port) => [port.ipAddress, ...port.ipv6Address === undefined ? [] : [port.ipv6Address]];

function covers(rule: Pick<Rule, "protocol" | "portMin" | "portMax">, flow: Flow): boolean {
  if (rule.protocol === "any") return true;
  if (rule.protocol !== flow.protocol) return false;
  return rule.portMin === 0 || flow.port >= rule.portMin && flow.port <= rule.portMax;
}

/** A rule as a person writes it: "ingress tcp:80 from 0.0.0.0/0". */
function ruleText(rule: Rule | AclRule, peer: string): string {
  const range = rule.portMin === rule.portMax ? `${rule.portMin}` : `${rule.portMin}-${rule.portMax}`;
  const what = rule.portMin === 0 ? rule.protocol : `${rule.protocol}:${range}`;
  return `${rule.direction} ${what} ${rule.direction === "ingress" ? "from" : "to"} ${peer}`;
}

export class FlowTracer {
  readonly #state: FlowState;
  readonly #steps: FlowStep[] = [];

  constructor(state: FlowState) {
    this.#state = state;
  }

  /** What becomes of a flow that the guest of `from` begins. */
  trace(from: Named<Port>, flow: Omit<Flow, "source">): FlowAnswer {
    const { destination } = flow;
    const subnet = this.#state.subnets.find(({ id }) => id === from.value.subnetId)!;
    const firstHop = this.#firstHop(subnet, destination);
    const source = isV6(destination) ? from.value.ipv6Address : from.value.ipAddress;
    if (source === undefined) {
      const text = `port ${from.name} has no IPv6 address: its subnet has no IPv6 range`;
      return { ...this.#denied("neighbour", text, from.id), firstHop };
    }
    const whole: Flow = { ...flow, source };
    if (!this.#securityGroups(from, "egress", whole, destination)) return { ...this.#end(false), firstHop };
    const outcome = this.#isLocal(subnet, destination) ? this.#inSubnet(subnet, whole) : this.#routed(subnet, whole);
    return { ...outcome, firstHop };
  }

  #isLocal(subnet: Named<Subnet>, ip: string): boolean {
    const cidr = isV6(ip) ? subnet.value.cidrV6 : subnet.value.cidr;
    return cidr !== undefined && within(ip, cidr);
  }

  #firstHop(subnet: Named<Subnet>, ip: string): FlowAnswer["firstHop"] {
    const isGateway = ip === subnet.value.gatewayIp || ip === subnet.value.gatewayV6;
    if (isGateway || !this.#isLocal(subnet, ip)) return { kind: "router" };
    const port = this.#portAt(subnet.value.vpcId, ip);
    return port ? { kind: "port", id: port.id } : { kind: "nobody" };
  }

  #inSubnet(subnet: Named<Subnet>, flow: Flow): Outcome {
    if (flow.destination === subnet.value.gatewayIp || flow.destination === subnet.value.gatewayV6) {
      return flow.protocol === "icmp"
        ? this.#allowed("neighbour", `the gateway of subnet ${subnet.name} answers`, subnet.id)
        : this.#denied("neighbour", `the gateway of subnet ${subnet.name} serves nothing on ports`, subnet.id);
    }
    const port = this.#portAt(subnet.value.vpcId, flow.destination);
    if (!port) {
      return this.#denied(
        "neighbour",
        `no port of subnet ${subnet.name} has ${flow.destination}: nobody answers for it`,
        subnet.id,
      );
    }
    return this.#deliver(port, flow);
  }

  #routed(subnet: Named<Subnet>, flow: Flow): Outcome {
    if (!this.#networkAcl(subnet, "egress", flow, flow.destination)) return this.#end(false);
    const { vpcId } = subnet.value;
    const cidrOf = (value: Subnet) => isV6(flow.destination) ? value.cidrV6 : value.cidr;
    const inVpc = (id: string) =>
      this.#state.subnets.find(({ value }) =>
        value.vpcId === id && cidrOf(value) !== undefined && within(flow.destination, cidrOf(value)!)
      );
    const own = inVpc(vpcId);
    if (own) {
      this.#step("route", true, `subnet ${own.name} (${cidrOf(own.value)}) of the same network`, own.id);
      return this.#intoSubnet(own, flow);
    }
    if (!isV6(flow.destination)) {
      // The longest prefix decides, whatever it was made by.
      const routes = this.#routesOf(vpcId).filter(({ cidr }) => within(flow.destination, cidr))
        .sort((a, b) => Number(b.cidr.split("/")[1]) - Number(a.cidr.split("/")[1]));
      const [route] = routes;
      if (route) return route.take(flow);
    }
    return this.#denied(
      "route",
      `no route of the network leads to ${flow.destination}: no subnet, route, peering or NAT gateway has it`,
      vpcId,
    );
  }

  #routesOf(vpcId: string): { cidr: string; take(flow: Flow): Outcome }[] {
    const { routers, peerings, subnets, gateways } = this.#state;
    const found: { cidr: string; take(flow: Flow): Outcome }[] = [];
    for (const router of routers.filter(({ value }) => value.vpcId === vpcId)) {
      for (const { cidr, nextHop } of router.value.routes) {
        found.push({
          cidr,
          take: (flow) => {
            const hop = this.#portAt(vpcId, nextHop);
            const text = `route ${cidr} of router ${router.name} leads to ${nextHop}`;
            if (!hop) return this.#denied("route", `${text}, which no port has`, router.id);
            this.#step("route", true, `${text}, port ${hop.name}`, router.id);
            const subnet = subnets.find(({ id }) => id === hop.value.subnetId)!;
            return this.#intoSubnet(subnet, flow, hop);
          },
        });
      }
    }
    for (const peering of peerings) {
      const { vpcId: a, peerVpcId: b } = peering.value;
      if (a !== vpcId && b !== vpcId) continue;
      for (const subnet of subnets.filter(({ value }) => value.vpcId === (a === vpcId ? b : a))) {
        found.push({
          cidr: subnet.value.cidr,
          take: (flow) => {
            this.#step("route", true, `peering ${peering.name} leads to subnet ${subnet.name}`, peering.id);
            return this.#intoSubnet(subnet, flow);
          },
        });
      }
    }
    for (const gateway of gateways.filter(({ value }) => value.vpcId === vpcId)) {
      const pool = this.#state.pools.find(({ id }) => id === gateway.value.poolId);
      if (!pool) continue;
      const take = (flow: Flow) => this.#outside(gateway, pool, flow);
      found.push({ cidr: pool.value.cidr, take });
      if (pool.value.gatewayIp !== "") found.push({ cidr: "0.0.0.0/0", take });
    }
    return found;
  }

  #outside(gateway: Named<NatGateway>, pool: Named<AddressPool>, flow: Flow): Outcome {
    const { floatingIps, ports } = this.#state;
    const inPool = floatingIps.filter(({ value }) => value.poolId === pool.id);
    const from = ports.find((port) => port.value.ipAddress === flow.source && port.value.vpcId === gateway.value.vpcId);
    const own = inPool.find(({ value }) => from !== undefined && value.portId === from.id);
    const seen = own?.value.ipAddress ?? gateway.value.ipAddress;
    const by = own ? `floating IP ${own.name}` : `NAT gateway ${gateway.name}`;
    this.#step("NAT", true, `${by} sends it as ${seen} into address pool ${pool.name}`, own?.id ?? gateway.id);
    const target = inPool.find(({ value }) => value.ipAddress === flow.destination && value.portId !== "");
    const port = target && ports.find(({ id }) => id === target.value.portId);
    if (!target || !port) {
      const text = `it leaves by the uplink ${pool.value.uplink} of the hosts`;
      return { ...this.#allowed("route", text, pool.id), leavesBy: { kind: "pool", id: pool.id } };
    }
    this.#step("NAT", true, `floating IP ${target.name} leads back in to port ${port.name}`, target.id);
    const translated = { ...flow, source: seen, destination: port.value.ipAddress };
    return this.#intoSubnet(this.#state.subnets.find(({ id }) => id === port.value.subnetId)!, translated, port);
  }

  #intoSubnet(subnet: Named<Subnet>, flow: Flow, hop?: Named<Port>): Outcome {
    if (!this.#networkAcl(subnet, "ingress", flow, flow.source)) return this.#end(false);
    const port = hop ?? this.#portAt(subnet.value.vpcId, flow.destination);
    if (port) return this.#deliver(port, flow);
    if (flow.destination === subnet.value.gatewayIp && flow.protocol === "icmp") {
      return this.#allowed("neighbour", `the gateway of subnet ${subnet.name} answers`, subnet.id);
    }
    return this.#denied("neighbour", `no port of subnet ${subnet.name} has ${flow.destination}`, subnet.id);
  }

  #deliver(port: Named<Port>, flow: Flow): Outcome {
    if (!this.#securityGroups(port, "ingress", flow, flow.source)) return this.#end(false);
    const at = port.value.host === "" ? "which no host has: nothing is there to answer" : `on host ${port.value.host}`;
    this.#step("neighbour", true, `port ${port.name} has it, ${at}`, port.id);
    return { ...this.#end(true), leavesBy: { kind: "port", id: port.id } };
  }

  #portAt(vpcId: string, ip: string): Named<Port> | undefined {
    return this.#state.ports.find(({ value }) => value.vpcId === vpcId && addressesOf(value).includes(ip));
  }

  #securityGroups(port: Named<Port>, direction: Direction, flow: Flow, peer: string): boolean {
    const groups = this.#state.groups.filter(({ id }) => port.value.securityGroupIds.includes(id));
    for (const group of groups) {
      for (const rule of group.value.rules) {
        if (rule.direction !== direction || !covers(rule, flow)) continue;
        const remote = this.#state.groups.find(({ id }) => id === rule.remoteGroupId);
        const matches = rule.remoteGroupId === ""
          ? within(peer, rule.remoteCidr)
          : this.#members(rule.remoteGroupId).includes(peer);
        if (!matches) continue;
        const text = ruleText(rule, remote ? `group ${remote.name}` : rule.remoteCidr);
        this.#step("security group", true, `rule "${text}" of group ${group.name} lets it pass`, rule.id);
        return true;
      }
    }
    const way = direction === "egress" ? "out" : "in";
    const text = groups.length === 0
      ? `port ${port.name} is in no group, and without one nothing is let ${way}`
      : `no ${direction} rule of port ${port.name}'s groups (${
        groups.map(({ name }) => name).join(", ")
      }) lets it ${way}`;
    this.#step("security group", false, text, port.id);
    return false;
  }

  #members(groupId: string): string[] {
    return this.#state.ports.filter(({ value }) => value.securityGroupIds.includes(groupId))
      .flatMap(({ value }) => addressesOf(value));
  }

  #networkAcl(subnet: Named<Subnet>, direction: Direction, flow: Flow, peer: string): boolean {
    const acl = this.#state.acls.find(({ id }) => id === subnet.value.networkAclId);
    if (!acl) return true;
    const rules = acl.value.rules.filter((rule) => rule.direction === direction);
    const rule = rules.toSorted((a, b) => a.number - b.number)
      .find((candidate) => covers(candidate, flow) && within(peer, candidate.remoteCidr));
    const where = `of network ACL ${acl.name} at subnet ${subnet.name}`;
    if (!rule) {
      this.#step(
        "network ACL",
        false,
        `no ${direction} rule ${where} matches, and what none matches is dropped`,
        acl.id,
      );
      return false;
    }
    const allowed = rule.action === "allow";
    const text = `rule ${rule.number} "${ruleText(rule, rule.remoteCidr)}" ${where} ${
      allowed ? "allows" : "denies"
    } it`;
    this.#step("network ACL", allowed, allowed ? `${text}; answers need a rule of their own` : text, acl.id);
    return allowed;
  }

  #step(stage: FlowStep["stage"], allowed: boolean, text: string, by: string): void {
    this.#steps.push({ stage, allowed, text, by });
  }

  #denied(stage: FlowStep["stage"], text: string, by: string): Outcome {
    this.#step(stage, false, text, by);
    return this.#end(false);
  }

  #allowed(stage: FlowStep["stage"], text: string, by: string): Outcome {
    this.#step(stage, true, text, by);
    return this.#end(true);
  }

  #end(allowed: boolean): Outcome {
    return { allowed, steps: [...this.#steps] };
  }
}

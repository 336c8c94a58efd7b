import assert from "node:assert/strict";
import { AclAction, Direction, Protocol, Verdict } from "@ultracloud/proto/prismnet/v1";
import { testUnless } from "@ultracloud/testing";
import { noPackets } from "./test_netns.ts";
import { type Guest, project, until, World } from "./test_world.ts";

const { INGRESS, EGRESS } = Direction;
const { ICMP, TCP } = Protocol;
const out = { direction: EGRESS, protocol: Protocol.UNSPECIFIED };
const out6 = { ...out, remoteCidr: "::/0" };
const pingIn = { direction: INGRESS, protocol: ICMP };
const web = { direction: INGRESS, protocol: TCP, portMin: 80, portMax: 80 };

testUnless(
  "a traced flow is told alike by records, engine and packets; rules and ports are counted",
  noPackets,
  async (t) => {
    await using world = await World.make(2);
    const { vpcs, subnets, groups, ports, edge, insights } = world;
    await vpcs.createVpc({ project, name: "net" });
    await vpcs.createVpc({ project, name: "next" });
    await subnets.createSubnet({ project, name: "a", vpc: "net", cidr: "10.1.0.0/24", cidrV6: "fd00:1::/64" });
    await subnets.createSubnet({ project, name: "b", vpc: "net", cidr: "10.1.1.0/24" });
    await subnets.createSubnet({ project, name: "c", vpc: "next", cidr: "10.2.0.0/24" });
    await groups.createSecurityGroup({
      project,
      name: "ping",
      rules: [pingIn, { ...pingIn, remoteCidr: "::/0" }, out, out6],
    });
    await groups.createSecurityGroup({ project, name: "web", rules: [web, out] });
    await groups.createSecurityGroup({ project, name: "mute", rules: [pingIn] });
    const one = await world.guest({ name: "one", subnet: "a", hv: 0, groups: ["ping"] });
    const two = await world.guest({ name: "two", subnet: "a", hv: 1, groups: ["ping"] });
    const far = await world.guest({ name: "far", subnet: "b", hv: 1, groups: ["ping"] });
    const peer = await world.guest({ name: "peer", subnet: "c", hv: 0, groups: ["ping"] });
    const server = await world.guest({ name: "server", subnet: "a", hv: 1, groups: ["web"] });
    const mute = await world.guest({ name: "mute", subnet: "a", hv: 0, groups: ["mute"] });
    // Sent from more than a /24 of its own: routes are the router's to find.
    await edge.pools.createAddressPool({
      name: "public",
      cidr: "172.30.0.0/24",
      gatewayIp: "172.30.0.1",
      uplink: "outside",
    });
    await world.settled();

    const trace = (from: Guest, destinationIp: string, protocol = ICMP, destinationPort = 0) =>
      insights.traceFlow({ project, port: from.port.meta!.id, destinationIp, protocol, destinationPort });
    const pings = async (from: Guest, to: string) =>
      (await from.ns.try("ping", "-n", "-c", "1", "-W", "1", ...to.includes(":") ? ["-6"] : [], to)).ok;
    /** Records, engine and packets say the same of a ping; `words` stand in the step that decided. */
    const told = async (from: Guest, to: string, allowed: boolean, words: RegExp) => {
      const answer = await trace(from, to);
      const seen = `${from.port.meta!.name} to ${to}: ${JSON.stringify(answer.steps)}\n${answer.engineText}`;
      assert.equal(answer.verdict, allowed ? Verdict.ALLOWED : Verdict.DENIED, seen);
      assert.ok(answer.agree && answer.engineVerdict === answer.verdict, seen);
      assert.match(answer.steps.at(-1)!.text, words, seen);
      if (allowed) await until(`${to} answers`, () => pings(from, to));
      else assert.ok(!await pings(from, to), seen);
    };
    const ip = (guest: Guest) => guest.port.ipAddress;

    await t.step("neighbours, groups and addresses that nobody has", async () => {
      await told(one, ip(two), true, /port two has it, on host hv1/);
      await told(one, two.port.ipv6Address, true, /port two has it/);
      await told(one, ip(server), false, /no ingress rule of port server's groups \(web\) lets it in/);
      await told(mute, ip(two), false, /no egress rule of port mute's groups \(mute\) lets it out/);
      await told(one, "10.1.0.200", false, /no port of subnet a has 10\.1\.0\.200/);
      await told(one, "10.1.0.1", true, /the gateway of subnet a answers/);
    });
    await t.step("ports of TCP", async () => {
      const rule = /rule "ingress tcp:80 from 0\.0\.0\.0\/0" of group web lets it pass/;
      const open = await trace(one, ip(server), TCP, 80);
      assert.ok(open.agree && open.verdict === Verdict.ALLOWED && open.steps.some(({ text }) => rule.test(text)));
      const shut = await trace(one, ip(server), TCP, 81);
      assert.ok(shut.agree && shut.verdict === Verdict.DENIED && shut.steps.at(-1)!.decidedBy === server.port.meta!.id);
    });
    await t.step("subnets, peerings, routes and what has none", async () => {
      await told(one, ip(far), true, /port far has it/);
      await told(one, ip(peer), false, /no route of the network leads to/);
      await edge.peerings.createPeering({ project, name: "bridge", vpc: "net", peerVpc: "next" });
      await world.settled();
      await told(one, ip(peer), true, /port peer has it/);
      await told(one, "172.30.0.1", false, /no route of the network leads to/);
    });
    await t.step("the way out and floating IPs", async () => {
      await edge.gateways.createNatGateway({ project, name: "way", vpc: "net", addressPool: "public" });
      await world.settled();
      await told(one, "172.30.0.1", true, /leaves by the uplink outside/);
      const fip = await edge.ips.createFloatingIp({ project, name: "web", addressPool: "public" });
      await edge.ips.attachFloatingIp({ project, floatingIp: "web", port: "two" });
      await world.settled();
      const answer = await trace(one, fip.ipAddress);
      assert.equal(answer.verdict, Verdict.ALLOWED);
      assert.ok(
        answer.steps.some(({ text }) => /floating IP web leads back in to port two/.test(text)),
        answer.engineText,
      );
      const stranger = await insights.traceFlow({ project, port: "one", destinationIp: "8.8.8.8", protocol: ICMP });
      assert.ok(stranger.agree && stranger.verdict === Verdict.ALLOWED, stranger.engineText);
    });
    await t.step("a network ACL at the subnet's edge", async () => {
      const deny = {
        number: 10,
        direction: INGRESS,
        action: AclAction.DENY,
        remoteCidr: `${ip(one)}/32`,
        protocol: ICMP,
      };
      const allow = { number: 20, direction: INGRESS, action: AclAction.ALLOW, protocol: Protocol.UNSPECIFIED };
      const back = { number: 20, direction: EGRESS, action: AclAction.ALLOW, protocol: Protocol.UNSPECIFIED };
      await edge.acls.createNetworkAcl({ project, name: "edge", rules: [deny, allow, back] });
      await subnets.setSubnetAcl({ project, subnet: "b", networkAcl: "edge" });
      await world.settled();
      await told(one, ip(far), false, /rule 10 "ingress icmp from .*" of network ACL edge at subnet b denies it/);
      await told(two, ip(far), true, /port far has it/);
      await subnets.setSubnetAcl({ project, subnet: "b", networkAcl: "" });
      await world.settled();
    });
    await t.step("a rule's packets are counted, and a port's", async () => {
      const group = await groups.getSecurityGroup({ project, securityGroup: "ping" });
      const rule = group.rules.find((r) => r.direction === INGRESS && r.remoteCidr === "0.0.0.0/0")!;
      const counted = async () => {
        const { rules, missingHosts } = await insights.getRuleCounters({ project, securityGroup: "ping" });
        assert.deepEqual(missingHosts, []);
        assert.deepEqual(rules.map(({ ruleId }) => ruleId), group.rules.map(({ id }) => id));
        return rules.find(({ ruleId }) => ruleId === rule.id)!.packets;
      };
      const port = () => insights.getPortCounters({ project, port: "two" });
      const [packets, before] = [await counted(), await port()];
      const sent = 20;
      await until(
        "all are answered",
        async () => (await one.ns.try("ping", "-n", "-c", String(sent), "-i", "0.02", "-W", "2", ip(two))).ok,
      );
      await until("the rule has counted them", async () => await counted() >= packets + BigInt(sent));
      await until("the port has counted them", async () => {
        const now = await port();
        return now.receivedPackets >= before.receivedPackets + BigInt(sent) &&
          now.sentPackets >= before.sentPackets + BigInt(sent);
      });
      const none = await insights.getRuleCounters({ project, securityGroup: "web" });
      assert.equal(
        none.rules.find(({ ruleId }) => ruleId === rule.id),
        undefined,
        "rules of another group are not told",
      );
    });
    await t.step("an unbound port and another project's are not counted", async () => {
      await ports.createPort({ project, name: "idle", subnet: "a" });
      await assert.rejects(insights.getPortCounters({ project, port: "idle" }), /no host has it/);
      await assert.rejects(insights.getPortCounters({ project: "umbra/prod", port: "two" }), /Cannot find/);
      await assert.rejects(
        insights.traceFlow({ project: "umbra/prod", port: one.port.meta!.id, destinationIp: ip(two), protocol: ICMP }),
        /Cannot find/,
      );
    });
  },
);

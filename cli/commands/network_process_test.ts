import assert from "node:assert/strict";
import process from "node:process";
import { proposeCompletions } from "@stricli/core";
import { startTestStack } from "@ultracloud/testing";
import { buildUc } from "../app.ts";
import { writeContexts } from "../frame/contexts.ts";
import { Desk } from "./test_desk.ts";

/** uc over a real prismnet that writes for OVN, with no host: records are kept, nothing is carried. */
async function networkDesk(): Promise<Desk> {
  const { stack, ...test } = await startTestStack({
    components: ["chainfire", "flaredb", "iam", "prismnet"],
    overrides: { prismnet: { engine: "ovn" } },
  });
  const dir = await Deno.makeTempDir({ prefix: "uc-desk-" });
  const desk = new Desk({ url: stack.endpoint("prismnet"), stack, ...test }, dir);
  const endpoints = Object.fromEntries(["iam", "prismnet", "plasmavmc"].map((name) => [name, stack.endpoint(name)]));
  const context = { endpoint: "http://127.0.0.1", endpoints, project: "acme/prod" };
  writeContexts(`${dir}/uc.json`, { version: 1, current: "test", contexts: { test: context }, credentials: {} });
  await desk.ok("login", "--admin-token-file", stack.adminTokenFile);
  await desk.ok("org", "create", "acme");
  await desk.ok("project", "create", "acme/prod");
  return desk;
}

Deno.test("uc network, subnet, port, sg, acl, router, nat, ip, peering and net, as a person uses them", async (t) => {
  await using desk = await networkDesk();
  const ok = desk.ok.bind(desk);
  const json = async (...words: string[]) => JSON.parse(await ok(...words, "-o", "json"));
  const fails = desk.fails.bind(desk);
  const yes = "--yes";

  await t.step("help names every verb and what it needs", async () => {
    const nouns = ["network", "subnet", "port", "sg", "acl", "router", "nat", "ip", "peering", "net"];
    for (const noun of nouns) {
      const help = await ok(noun, "--help");
      assert.match(help, new RegExp(`uc ${noun} `));
      if (noun !== "net") {
        for (const verb of ["list", "create", "show", "delete"]) assert.match(help, new RegExp(verb));
      }
    }
    assert.match(await ok("subnet", "create", "--help"), /<subnet> --network value --cidr value/);
    assert.match(await ok("net", "trace", "--help"), /Would this flow pass\?/);
  });

  await t.step("a network with subnets of both families", async () => {
    const made = await json("network", "create", "net", "--description", "first", "--label", "tier=one");
    assert.equal((await json("network", "show", "net")).meta.id, made.meta.id);
    await fails(5, ["network", "create", "net"], /Cannot create VPC net in acme\/prod as the name is taken/);
    const updated = await json("network", "update", "net", "--description", "the one");
    assert.deepEqual([updated.description, updated.meta.labels], ["the one", { tier: "one" }]);
    await fails(2, ["network", "update", "net"], /Cannot change nothing/);
    await ok("subnet", "create", "lan", "--network", "net", "--cidr", "10.20.0.0/29", "--cidr6", "fd00:20::/64");
    assert.match(await ok("subnet", "list"), /lan .*10\.20\.0\.0\/29 +fd00:20::\/64 +10\.20\.0\.1/);
    await fails(2, ["subnet", "create", "bad", "--network", "net", "--cidr", "10.20.0.1/29"], /wanted .*prefix|CIDR/);
    await fails(3, ["subnet", "create", "bad", "--network", "nowhere", "--cidr", "10.21.0.0/24"], /nowhere/);
    await ok("subnet", "create", "gone", "--network", "net", "--cidr", "10.22.0.0/24");
    await ok("subnet", "delete", "gone", yes);
    await fails(5, ["network", "delete", "net", yes], /Cannot delete VPC net/);
    await fails(2, ["network", "delete", "net"], /wanted --yes/);
  });

  await t.step("ports and security groups", async () => {
    const group = await json("sg", "create", "web", "--ingress", "tcp:80", "--ingress", "icmp");
    assert.equal(group.rules.length, 3);
    await fails(2, ["sg", "create", "bad", "--ingress", "tcp:99999"], /wanted tcp:80/);
    const added = await json("sg", "rule", "add", "web", "--ingress", `tcp:443@${group.meta.id}`);
    const rule = added.rules.find((r: { portMin?: number }) => r.portMin === 443);
    assert.equal(rule.remoteGroupId, group.meta.id);
    await fails(5, ["sg", "rule", "add", "web", "--ingress", "tcp:80"], /it is there already/);
    await fails(2, ["sg", "rule", "add", "web"], /exactly one of --ingress and --egress/);
    assert.equal((await json("sg", "rule", "remove", "web", rule.id)).rules.length, 3);
    await fails(3, ["sg", "rule", "remove", "web", rule.id], /Cannot find rule/);

    const port = await json("port", "create", "one", "--subnet", "lan", "--sg", "web", "--allow", "192.168.9.0/24");
    assert.deepEqual(port.allowedAddresses, ["192.168.9.0/24"]);
    assert.match(port.ipv6Address, /^fd00:20::/);
    await fails(5, ["sg", "delete", "web", yes], /uses it/);
    await fails(5, ["port", "create", "two", "--subnet", "lan", "--ip", port.ipAddress], /is taken in subnet lan/);
    assert.deepEqual((await json("port", "groups", "one")).securityGroupIds, []);
    assert.deepEqual((await json("port", "groups", "one", "--sg", "web")).securityGroupIds, [group.meta.id]);
    for (const name of ["two", "three", "four", "five"]) await ok("port", "create", name, "--subnet", "lan");
    await fails(6, ["port", "create", "six", "--subnet", "lan"], /all of subnet lan \(10\.20\.0\.0\/29\) are taken/);
    await ok("port", "delete", "five", yes);
    await fails(6, ["port", "create", "six", "--subnet", "lan"], /1 of them were given back and rest for a while/);
    assert.match(await ok("port", "list", "--subnet", "lan"), /one .*unbound/);
  });

  await t.step("network ACLs, routes and peerings", async () => {
    await ok("acl", "create", "edge");
    await ok("acl", "rule", "edge", "--number", "50", "--ingress", "any@192.0.2.0/24", "--deny");
    await ok("acl", "rule", "edge", "--number", "100", "--ingress", "any");
    assert.match(await ok("acl", "show", "edge"), /50 deny ingress any 192\.0\.2\.0\/24, 100 allow ingress any/);
    await fails(2, ["acl", "rule", "edge", "--number", "0", "--ingress", "any"], /wanted 1 to 32765/);
    await fails(2, ["acl", "rule", "edge", "--number", "7", "--ingress", "any@sg_x"], /Cannot use a security group/);
    await ok("acl", "attach", "edge", "--subnet", "lan");
    await fails(5, ["acl", "delete", "edge", yes], /edge/);
    await ok("acl", "detach", "--subnet", "lan");
    await ok("acl", "rule", "edge", "--number", "50", "--ingress", "any", "--remove");
    await ok("acl", "delete", "edge", yes);

    await ok("router", "create", "main", "--network", "net");
    await ok("router", "route", "main", "--cidr", "192.168.0.0/16", "--via", "10.20.0.2");
    assert.match(await ok("router", "show", "main"), /192\.168\.0\.0\/16 via 10\.20\.0\.2/);
    await fails(2, ["router", "route", "main", "--cidr", "192.168.0.0/16", "--via", "nobody"], /nobody/);
    await ok("router", "route", "main", "--cidr", "192.168.0.0/16", "--remove");
    await ok("router", "delete", "main", yes);

    await ok("network", "create", "next");
    await ok("peering", "create", "both", "--network", "net", "--peer", "next");
    assert.equal((await json("peering", "show", "both")).meta.name, "both");
    await fails(5, ["network", "delete", "next", yes], /Cannot delete VPC next/);
    await ok("peering", "delete", "both", yes);
    await ok("network", "delete", "next", yes);
  });

  await t.step("address pools, NAT gateways and floating IPs", async () => {
    const pool = ["--cidr", "203.0.113.0/24", "--gateway", "203.0.113.1", "--uplink", "public"];
    await ok("ip", "create-pool", "public", ...pool);
    assert.match(await ok("ip", "pools"), /public .*203\.0\.113\.0\/24/);
    assert.equal((await json("ip", "show-pool", "public")).uplink, "public");
    await fails(
      2,
      ["ip", "create-pool", "bad", "--cidr", "203.0.113.7/24", "--uplink", "public"],
      /203\.0\.113\.7\/24/,
    );
    await ok("nat", "create", "way", "--network", "net", "--pool", "public");
    const { ipAddress } = await json("nat", "show", "way");
    const floating = await json("ip", "create", "www", "--pool", "public");
    assert.notEqual(floating.ipAddress, ipAddress);
    await ok("ip", "attach", "www", "--port", "one");
    assert.match((await json("ip", "show", "www")).portId, /^port_/);
    await fails(5, ["ip", "delete", "www", yes], /www/);
    await fails(5, ["port", "delete", "one", yes], /wanted it detached first/);
    await fails(5, ["ip", "delete-pool", "public", yes], /Cannot delete .*pool/);
    await ok("ip", "detach", "www");
    await ok("ip", "delete", "www", yes);
    await ok("nat", "delete", "way", yes);
    await ok("ip", "delete-pool", "public", yes);
  });

  await t.step("what the network would do, and what nobody can say without a host", async () => {
    assert.match(await ok("network", "engine"), /router_guard +enforced/);
    const told = await desk.uc(["net", "trace", "--from", "one", "--to", "10.20.0.3:80"]);
    assert.equal(told.code, 0, told.err);
    assert.match(told.out, /deny|denied/);
    assert.match(told.err, /tcp from one to 10\.20\.0\.3:80: denied; the engine was not asked/);
    await fails(2, ["net", "trace", "--from", "one", "--to", "somewhere"], /wanted 10\.0\.0\.3:80/);
    await fails(3, ["net", "trace", "--from", "nobody", "--to", "10.20.0.3"], /Cannot find port "nobody"/);
    await fails(5, ["net", "counters", "port", "one"], /as no host has it/);
    assert.match(await ok("net", "counters", "sg", "web"), /ingress tcp:80 0\.0\.0\.0\/0 +0 +0/);
  });

  await t.step("the shell is told names", async () => {
    const before = Deno.env.get("UC_CONFIG");
    Deno.env.set("UC_CONFIG", `${desk.dir}/uc.json`);
    try {
      for (const [words, name] of [[["port", "show", ""], "one"], [["sg", "rule", "add", ""], "web"]] as const) {
        const proposed = await proposeCompletions(await buildUc(words), words, { process } as never);
        assert.ok(proposed.some(({ completion }) => completion === name), JSON.stringify(proposed));
      }
    } finally {
      if (before === undefined) Deno.env.delete("UC_CONFIG");
      else Deno.env.set("UC_CONFIG", before);
    }
  });
});

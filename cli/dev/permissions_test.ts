import assert from "node:assert/strict";
import { loadFleet } from "@ultracloud/launch";
import { formatFleet, judgeFleet } from "./_fleet_table.ts";
import { plantTree } from "./_tree_test_support.ts";

function manifest(name: string, port: number, more: Record<string, unknown> = {}): string {
  const listen = { rpc: { port, scheme: "connect" } };
  return JSON.stringify({ name, kind: "service", summary: `Serves what ${name} serves`, listen, ...more });
}

async function planted(files: Record<string, string>) {
  await using tree = await plantTree({ "agents/README.md": "", ...files });
  return await loadFleet(tree.root);
}

Deno.test("judgeFleet() finds nothing in a fleet whose edges meet", async () => {
  const fleet = await planted({
    "services/alpha/component.json": manifest("alpha", 7100, { calls: ["beta.rpc"] }),
    "services/beta/component.json": manifest("beta", 7110),
  });
  assert.deepEqual(judgeFleet(fleet), []);
});

Deno.test("judgeFleet() names a port that two listeners want and a callee that nobody is", async () => {
  const fleet = await planted({
    "services/alpha/component.json": manifest("alpha", 7100, { calls: ["beta.peer"] }),
    "services/beta/component.json": manifest("beta", 7100),
  });
  assert.deepEqual(judgeFleet(fleet), [
    "Cannot let alpha call beta.peer: no component has that listener",
    "Cannot give port 7100 to beta.rpc: alpha.rpc has it",
  ]);
});

Deno.test("loadFleet() refuses a manifest that starts a shell", async () => {
  const files = { "services/alpha/component.json": manifest("alpha", 7100, { run: ["bash"] }) };
  await assert.rejects(planted(files), /Cannot grant bash in .*component\.json/);
});

Deno.test("formatFleet() shows each grant with the site's addresses as symbols", async () => {
  const fleet = await planted({
    "services/alpha/component.json": manifest("alpha", 7100, { calls: ["beta.rpc"], run: ["qemu-img"] }),
    "services/beta/component.json": manifest("beta", 7110),
  });
  const text = formatFleet(fleet);
  assert.match(
    text,
    /alpha \(service\): Serves what alpha serves\n {2}listens {2}rpc 7100 connect\n {2}calls {4}beta\.rpc/,
  );
  assert.ok(text.includes("  --allow-net=${listen_address}:7100,${peers_cidr}:7110\n"), text);
  assert.ok(text.includes("  --allow-run=qemu-img\n"), text);
  assert.ok(text.includes("  --allow-write=/run/ultracloud/beta,/var/lib/ultracloud/beta\n"), text);
});

import assert from "node:assert/strict";
import { systemClock } from "@ultracloud/base";
import { spawnComponent } from "@ultracloud/launch";
import { hostPrograms } from "@ultracloud/net-agent";
import { startTestStack, workspaceRoot } from "@ultracloud/testing";
import { join, Netns } from "./test_netns.ts";

/**
 * prismnet under its pinned permissions with the northbound database on another host: a namespace at the other end of a
 * wire. Started by its test in a namespace of its own.
 */
const [address, port] = ["10.99.0.2", 7133];
const tag = `uc${Deno.pid}`;
await using world = new AsyncDisposableStack();
const here = world.use(await Netns.current(`${tag}-here`));
const there = world.use(await Netns.make(`${tag}-there`));
await join([here, "wire"], [there, "wire"], 1500);
await here.run("ip", "address", "add", "10.99.0.1/24", "dev", "wire");
await there.run("ip", "address", "add", `${address}/24`, "dev", "wire");
const dir = await Deno.makeTempDir({ prefix: "uc-nb-" });
world.defer(() => Deno.remove(dir, { recursive: true }));
const programs = hostPrograms(there.name);
await programs.run("ovsdb-tool", ["create", `${dir}/nb.db`, "/usr/share/ovn/ovn-nb.ovsschema"]);
// Two listeners: the one that prismnet's manifest names, and its neighbour.
const server = programs.daemon("ovsdb-server", [
  `--unixctl=${dir}/nb.ctl`,
  `--remote=ptcp:${port}:${address}`,
  `--remote=ptcp:${port + 1}:${address}`,
  `${dir}/nb.db`,
], {});
world.defer(async () => {
  server.kill("SIGKILL");
  await server.exited;
});

/** What prismnet says of its northbound database once that is told from "not yet". */
async function northbound(at: number, granted: string): Promise<string> {
  await using test = await startTestStack({
    components: ["prismnet"],
    overrides: { prismnet: { engine: "ovn", northbound: `tcp:${address}:${at}` } },
    start: false,
  });
  const { stack } = test;
  const { manifest, dir: source } = stack.member("prismnet");
  const own = stack.placement("prismnet");
  const process = spawnComponent({
    manifest,
    placement: { ...own, callees: { ...own.callees, "net-agent.northbound": [granted] } },
    program: { kind: "source", root: workspaceRoot, entry: `${source}/${manifest.entry}` },
    logFile: stack.logFile("prismnet"),
  });
  try {
    for (const deadline = performance.now() + 60_000; performance.now() < deadline; await systemClock.sleep(50)) {
      const answer = await fetch(`${stack.endpoint("prismnet")}/readyz`).then((r) => r.json(), () => undefined);
      const part = answer?.parts?.northbound;
      if (part?.state === "ready") return "ready";
      if (part?.reason && part.reason !== "not yet connected") return `${part.state}: ${part.reason}`;
    }
    return "said nothing";
  } finally {
    await process.kill();
  }
}

const granted = await northbound(port, `${address}:${port}`);
console.log(`northbound at ${address}:${port}, granted: ${granted}`);
assert.equal(granted, "ready");
// As a site grants it: the listener's port in the network of the peers.
const network = await northbound(port, `10.99.0.0/24:${port}`);
console.log(`northbound at ${address}:${port}, its network granted: ${network}`);
assert.equal(network, "ready");
const neighbour = await northbound(port + 1, `${address}:${port}`);
console.log(`northbound at ${address}:${port + 1}, not granted: ${neighbour}`);
assert.match(neighbour, /^degraded: .* is not granted it/);
console.log("remote northbound: as granted");

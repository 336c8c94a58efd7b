import assert from "node:assert/strict";
import { systemClock } from "@ultracloud/base";
import { startTestStack } from "@ultracloud/testing";

/** The real components under their pinned permissions; started by its test in a network namespace of its own. */
await using test = await startTestStack({
  components: ["chainfire", "flaredb", "iam", "prismnet", "net-agent"],
  overrides: { prismnet: { engine: "ovn" }, "net-agent": { bridgePrefix: "uct" } },
  start: false,
});
const { stack } = test;
const runDir = stack.placement("net-agent").runDir;

async function health(name: string): Promise<string> {
  try {
    return JSON.stringify(await (await fetch(`${stack.endpoint(name)}/readyz`)).json());
  } catch (error) {
    return String(error);
  }
}
async function until(what: string, look: () => Promise<boolean>): Promise<void> {
  for (const deadline = performance.now() + 90_000; !await look();) {
    if (performance.now() > deadline) {
      const log = await Deno.readTextFile(stack.logFile("net-agent")).catch(String);
      throw new Error(`waited in vain until ${what}: ${await health("net-agent")} ${await health("prismnet")} ${log}`);
    }
    await systemClock.sleep(50);
  }
}
const ready = async (name: string) => JSON.parse(await health(name).catch(() => "{}")).state === "ready";
async function pids(): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const name of ["conf", "nb", "sb", "vswitchd", "northd", "controller"]) {
    found[name] = (await Deno.readTextFile(`${runDir}/${name}.pid`)).trim();
  }
  return found;
}

for (const name of ["chainfire", "flaredb", "iam", "prismnet", "net-agent"]) stack.start(name);
for (const name of ["prismnet", "net-agent"]) await until(`${name} is ready`, () => ready(name).catch(() => false));
await until("prismnet has its northbound database", async () => !(await health("prismnet")).includes("degraded"));
const before = await pids();
await stack.process("net-agent")!.kill();
await until("the agent is gone", async () => !await ready("net-agent").catch(() => false));
assert.deepEqual(await pids(), before, "the daemons outlive their agent");
stack.start("net-agent");
await until("the agent is ready again", () => ready("net-agent").catch(() => false));
assert.deepEqual(await pids(), before, "the new agent adopts the daemons");
console.log("stack on OVN: ready, killed, adopted");

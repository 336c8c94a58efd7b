import assert from "node:assert/strict";
import { endProcesses, findByCommandLine, freePort, identify, isAlive, portTaken } from "./mod.ts";

Deno.test("identify() tells a process from a later one with the same pid, and ended ones are gone", async () => {
  const child = new Deno.Command("sleep", { args: ["1000"], stdout: "null", stderr: "null" }).spawn();
  const identity = identify(child.pid)!;
  assert.ok(isAlive(identity));
  assert.equal(isAlive({ ...identity, startTicks: "1" }), false);
  const marker = `uc-launch-test-${crypto.randomUUID()}`;
  assert.deepEqual(findByCommandLine(marker), []);
  assert.equal(await endProcesses([identity], 2_000), 0);
  await child.status;
  assert.equal(isAlive(identity), false);
});

Deno.test("endProcesses() kills what does not end by itself", async () => {
  const child = new Deno.Command("sh", {
    args: ["-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"],
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const reader = child.stdout.getReader();
  await reader.read(); // the trap is set
  assert.equal(await endProcesses([identify(child.pid)!], 200), 1);
  await reader.cancel();
  await child.status;
});

Deno.test("freePort() answers a port that portTaken() sees free until somebody listens", () => {
  const port = freePort();
  assert.equal(portTaken("127.0.0.1", port), false);
  using _listener = Deno.listen({ hostname: "127.0.0.1", port });
  assert.equal(portTaken("127.0.0.1", port), true);
});

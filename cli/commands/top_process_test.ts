import assert from "node:assert/strict";
import { readMetrics } from "./_metrics_text.ts";
import { Desk } from "./test_desk.ts";

Deno.test("readMetrics() reads series, labels and their escapes, and leaves the rest out", () => {
  const text = ["# HELP a_total A", 'a_total{x="1",y="b\\"} \\\\ \\n"} 2', "b 1e3", "c{} 0", "nonsense", ""].join("\n");
  assert.deepEqual([...readMetrics(text)], [
    ["a_total", [{ labels: { x: "1", y: 'b"} \\ \n' }, value: 2 }]],
    ["b", [{ labels: {}, value: 1000 }]],
    ["c", [{ labels: {}, value: 0 }]],
  ]);
});

Deno.test("uc top tells what a component uses and serves, and what does not answer", async () => {
  await using desk = await Desk.openIam();
  let over = false;
  const calls = (async () => {
    while (!over) await Promise.all([desk.ok("whoami"), desk.uc(["org", "show", "nowhere"])]);
  })();
  const out = await desk.ok("top", "--interval", "1s", "-o", "json").finally(() => over = true);
  await calls;
  const all = JSON.parse(out) as Record<string, number | string>[];
  const iam = all.find(({ component }) => component === "iam")!;
  assert.ok((iam.residentBytes as number) > 1_000_000, JSON.stringify(iam));
  assert.ok((iam.cpuPercent as number) > 0 && (iam.callsPerSecond as number) > 0, JSON.stringify(iam));
  assert.ok((iam.failedPerSecond as number) > 0, JSON.stringify(iam));
  assert.ok((iam.startMs as number) > Date.now() - 600_000, JSON.stringify(iam));
  const silent = all.find(({ component }) => component === "prismnet")!;
  assert.equal(silent.residentBytes, undefined);
  const table = await desk.ok("top", "--interval", "200ms", "--count", "2", "--sort=-memory");
  const lines = table.trimEnd().split("\n");
  assert.match(lines[0]!, /^COMPONENT +CPU +MEMORY +CALLS\/S +FAILED\/S +IN FLIGHT +STREAMS +UP$/);
  assert.match(lines[1]!, /^iam +[\d.]+% +[\d.]+ MiB +[\d.]+ /);
  assert.equal(lines.filter((line) => line.startsWith("COMPONENT")).length, 2);
  await desk.fails(2, ["top", "--interval", "1ms"], /wanted 200ms to 1h/);
  await desk.fails(2, ["top", "--count", "0"], /at least 1/);
});

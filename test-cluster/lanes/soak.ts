import assert from "node:assert/strict";
import { checkLinearizable, type RegisterOperation, splitRng } from "@ultracloud/testing";
import type { Cluster } from "../harness/cluster.ts";
import { type Lane, type LaneRun, numberOption } from "../harness/lane.ts";
import { diskNames, storesOn } from "../planted/mod.ts";
import {
  chainfireRegister,
  createSoakOrg,
  flaredbRegister,
  iamRegister,
  type Register,
  soakClient,
  type SoakCounts,
} from "../harness/soak_clients.ts";
import { type FaultRecord, injectFaults } from "../harness/soak_faults.ts";
import { chainfireProbe, createLaneDatabase, flaredbProbe } from "../harness/stores.ts";
import { waitFor } from "../harness/wait.ts";

/** Clients of each of the three services at once. */
const clientsEach = 3;
/** A key is used for this long; the search for an order grows with what overlaps on one key. */
const keyMs = 2_000;
const keysAtOnce = 2;
const progressEveryMs = 10_000;

/** What nodes that are emulated have no room for: the clients use none of it. */
const besideTheStores = [
  "prismnet",
  "plasmavmc",
  "vm-agent",
  "deployer",
  "fleet-scheduler",
  "node-agent",
  "nix-agent",
];

const registersOf = (cluster: Cluster): Readonly<Record<string, Register>> => ({
  chainfire: chainfireRegister(cluster),
  flaredb: flaredbRegister(cluster),
  iam: iamRegister(cluster),
});

/** Random faults with clients at work, and their histories judged. */
export const soak: Lane = {
  name: "soak",
  summary: "clients read, write and swap while nodes fail at random; some order explains everything they saw",
  profile: "ha-control-plane",
  options: {
    minutes: "how long (1)",
    seed: "which faults (by the time)",
    disk: `what the stores' logs lie on: ${diskNames} (plain)`,
  },
  entries: (args) => storesOn(args.disk),
  leavesOut: (_args, substrate) => substrate === "qemu" ? besideTheStores : [],
  async run(run) {
    const minutes = numberOption(run.args, "minutes", 1);
    const seed = numberOption(run.args, "seed", Date.now() % 1_000_000 + 1);
    Object.assign(run.facts, { minutes, seed, disk: run.args.disk ?? "plain" });
    run.step(`seed ${seed}, ${minutes} minutes`);
    await createLaneDatabase(run.cluster);
    await createSoakOrg(run.cluster);
    let seen: Torment | undefined;
    await run.check("every node comes back from every fault", async () => {
      seen = await torment(run, minutes * 60_000, seed);
      return `${seen.faults.length} faults in ${minutes} minutes`;
    });
    await judge(run, seen!.history, seen!.counts, seen!.faults);
  },
};

interface Torment {
  readonly history: RegisterOperation[];
  readonly counts: Readonly<Record<string, SoakCounts>>;
  readonly faults: FaultRecord[];
}

async function torment(run: LaneRun, lengthMs: number, seed: number): Promise<Torment> {
  const { cluster } = run;
  const history: RegisterOperation[] = [];
  const faults: FaultRecord[] = [];
  const registers = registersOf(cluster);
  const counts: Record<string, SoakCounts> = {};
  const nodes = cluster.nodesWith("chainfire");
  const stop = new AbortController();
  const begin = performance.now();
  let values = 0;
  const clients = Object.entries(registers).flatMap(([store, register], which) => {
    const count = counts[store] = { done: 0, refused: 0, unknown: 0 };
    return Array.from({ length: clientsEach }, (_, i) => {
      const rng = splitRng(seed, which * clientsEach + i + 1);
      const key = () => {
        const window = Math.floor((performance.now() - begin) / keyMs);
        return `soak/${seed}/${window}/${(values + i) % keysAtOnce}`;
      };
      const options = { store, nodes, key, nextValue: () => ++values, signal: stop.signal };
      return soakClient(options, register, rng, history, count);
    });
  });
  const ticker = setInterval(() => {
    const text = Object.entries(counts).map(([store, c]) => `${store} ${c.done} done ${c.unknown} unknown`).join(", ");
    run.step(`${Math.round((performance.now() - begin) / 1000)} s: ${text}, ${faults.length} faults`);
  }, progressEveryMs);
  const onFault = (record: FaultRecord) => {
    faults.push(record);
    run.step(`${record.kind} hit ${record.target} for ${(record.heldMs / 1000).toFixed(1)} s`);
  };
  const over = setTimeout(() => stop.abort(), lengthMs);
  const onSignal = () => stop.abort();
  run.signal.addEventListener("abort", onSignal);
  try {
    // A fault under way is undone before this returns.
    await injectFaults({ nodes, signal: stop.signal }, {
      cluster,
      faults: run.faults,
      rng: splitRng(seed, 0),
      onFault,
    });
  } finally {
    stop.abort();
    clearInterval(ticker);
    clearTimeout(over);
    run.signal.removeEventListener("abort", onSignal);
    await Promise.all(clients);
  }
  run.signal.throwIfAborted();
  return { history, counts, faults };
}

async function judge(run: LaneRun, history: RegisterOperation[], counts: Torment["counts"], faults: FaultRecord[]) {
  const { cluster } = run;
  await run.evidence("faults.json", faults);
  const kinds: Record<string, number> = {};
  for (const { kind } of faults) kinds[kind] = (kinds[kind] ?? 0) + 1;
  Object.assign(run.facts, { faults: kinds, counts, operations: history.length });
  const nodes = cluster.nodesWith("chainfire");
  await run.check("the cluster is whole again", async () => {
    for (const probe of [chainfireProbe(cluster), flaredbProbe(cluster)]) {
      for (const node of nodes) await cluster.waitReady(node, probe.name, run.signal);
      await probe.leader(nodes);
      await waitFor({ timeoutMs: 60_000, what: `${probe.name} to take writes`, signal: run.signal }, async () => {
        await probe.put("/lane/soak-end", "over");
        return true;
      });
    }
    return `${faults.length} faults: ${Object.entries(kinds).map(([kind, n]) => `${n} ${kind}`).join(", ")}`;
  });
  await run.check("what was acknowledged last is there at the end", async () => {
    const keys = [...new Set(history.map((operation) => operation.key))];
    const registers = registersOf(cluster);
    for (const whole of keys) {
      const [store, key] = whole.split(" ") as [string, string];
      const what = `a read of ${whole}`;
      await waitFor({ timeoutMs: 30_000, what, signal: run.signal }, async () => {
        const invokedAt = performance.now();
        const value = await registers[store]!.read(nodes[0]!, key);
        history.push({ key: whole, action: { kind: "read", value }, invokedAt, returnedAt: performance.now() });
        return true;
      });
    }
    return `${keys.length} keys read once more`;
  });
  await run.evidence("history.jsonl", history.map((operation) => JSON.stringify(operation)).join("\n") + "\n");
  await run.check("enough was done to mean something", () => {
    for (const [store, { done }] of Object.entries(counts)) {
      assert.ok(done > 100, `${store} answered ${done} calls only`);
    }
    return Object.entries(counts).map(([store, c]) => `${store}: ${c.done} answered, ${c.unknown} unknown`).join("; ");
  });
  await run.check("the histories are linearizable", async () => {
    const begin = performance.now();
    const wrong = checkLinearizable(history);
    run.facts.checkMs = Math.round(performance.now() - begin);
    run.facts.violations = wrong.length;
    await run.evidence("violations.json", wrong);
    assert.deepEqual(
      wrong,
      [],
      `no order explains what was seen of ${wrong.length} keys: ${wrong.slice(0, 5).join("; ")}`,
    );
    return `${history.length} operations on ${new Set(history.map((o) => o.key)).size} keys, 0 violations`;
  });
}

import assert from "node:assert/strict";
import { type Lane, type LaneRun, numberOption } from "../harness/lane.ts";
import { chainfireProbe, createLaneDatabase, flaredbProbe, type StoreProbe } from "../harness/stores.ts";
import { table } from "../harness/terminal.ts";

const flights = [1, 16, 64];
const valueText = "x".repeat(100);

interface Figure {
  readonly store: string;
  readonly operation: string;
  readonly inFlight: number;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly calls: number;
}

/** Throughput and latency of the stores as a client sees them: three replicas, mTLS, one load generator beside them. */
export const benchStorage: Lane = {
  name: "bench-storage",
  summary:
    "throughput and latency of writes and reads of both stores, over mTLS on three replicas; a measurement, not a gate",
  profile: "stores",
  options: { seconds: "how long each figure is measured (3)" },
  async run(run) {
    await createLaneDatabase(run.cluster);
    const seconds = numberOption(run.args, "seconds", 3);
    const figures: Figure[] = [];
    for (const probe of [chainfireProbe(run.cluster), flaredbProbe(run.cluster)]) {
      await run.check(`${probe.name} is measured, and holds what was written`, async () => {
        const leader = await probe.leader(run.cluster.nodesWith(probe.name));
        for (const inFlight of flights) {
          figures.push(await measure(run, probe, "put", inFlight, seconds, (key) => probe.put(key, valueText)));
          figures.push(
            await measure(run, probe, "get linearizable", inFlight, seconds, async (key) => void await probe.get(key)),
          );
          figures.push(
            await measure(
              run,
              probe,
              "get local",
              inFlight,
              seconds,
              async (key) => void await probe.getLocal(key, leader),
            ),
          );
        }
        assert.equal(await probe.get(keyOf(0)), valueText);
        return `leader ${leader}`;
      });
    }
    await run.evidence("bench.json", figures);
    run.facts.figures = figures;
    const rows = figures.map((f) => [
      f.store,
      f.operation,
      String(f.inFlight),
      String(f.perSecond),
      f.p50Ms.toFixed(2),
      f.p99Ms.toFixed(2),
    ]);
    const text = table([["STORE", "OPERATION", "IN FLIGHT", "PER SECOND", "P50 MS", "P99 MS"], ...rows]);
    await run.evidence("bench.txt", text + "\n");
    console.log(text);
  },
};

const keyOf = (n: number) => `/lane/bench/${n % 1_000}`;

async function measure(
  run: LaneRun,
  probe: StoreProbe,
  operation: string,
  inFlight: number,
  seconds: number,
  call: (key: string) => Promise<void>,
): Promise<Figure> {
  run.step(`${probe.name} ${operation}, ${inFlight} in flight`);
  const times: number[] = [];
  const begin = performance.now();
  const endMs = begin + seconds * 1_000;
  let next = 0;
  await Promise.all(Array.from({ length: inFlight }, async () => {
    while (performance.now() < endMs) {
      run.signal.throwIfAborted();
      const start = performance.now();
      await call(keyOf(next++));
      times.push(performance.now() - start);
    }
  }));
  const span = (performance.now() - begin) / 1_000;
  times.sort((a, b) => a - b);
  const at = (share: number) => times[Math.min(times.length - 1, Math.floor(times.length * share))]!;
  return {
    store: probe.name,
    operation,
    inFlight,
    perSecond: Math.round(times.length / span),
    p50Ms: at(0.5),
    p99Ms: at(0.99),
    calls: times.length,
  };
}

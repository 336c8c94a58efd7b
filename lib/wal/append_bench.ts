/**
 * Durable appends per second at 1, 16 and 256 writers, beside a bare loop of one write and one fdatasync per round in
 * the same run: `deno run -A lib/wal/append_bench.ts [rounds] [seconds]`. A writer waits for its record to be durable
 * before it appends the next. Only the ratio travels between machines.
 */
import { type DiskFile, utf8 } from "@ultracloud/base";
import { openWal, systemDisk, type Wal } from "./mod.ts";

const payloadBytes = 256;
const writersList = [1, 16, 256] as const;
const [rounds, seconds] = [Number(Deno.args[0] ?? 3), Number(Deno.args[1] ?? 2)];

interface Measured {
  readonly recordsPerSecond: number;
  readonly syncsPerSecond: number;
}

const perSecond = (count: number, beginMs: number) => count / ((performance.now() - beginMs) / 1000);

/** Every writer's record of a round in one write, then one fdatasync: what no log can beat by much. */
async function bare(dir: string, writers: number): Promise<Measured> {
  const file: DiskFile = systemDisk.open(`${dir}/bare`, { create: true });
  const size = 64 * 2 ** 20;
  file.writeAt(new Uint8Array(size), 0);
  await file.sync();
  const block = new Uint8Array(payloadBytes * writers).fill(7);
  const begin = performance.now();
  let syncs = 0;
  for (let at = 0; performance.now() - begin < seconds * 1000; at = (at + block.length) % (size - block.length)) {
    file.writeAt(block, at);
    await file.sync();
    syncs++;
  }
  const measured = { recordsPerSecond: perSecond(syncs * writers, begin), syncsPerSecond: perSecond(syncs, begin) };
  file.close();
  return measured;
}

async function logged(dir: string, writers: number): Promise<Measured> {
  const fatal = (error: Error) => {
    throw error;
  };
  const wal: Wal = openWal({ dir: `${dir}/wal` }, { disk: systemDisk, onFatal: fatal });
  const data = utf8.encode("x".repeat(payloadBytes));
  let index = 0;
  const begin = performance.now();
  const syncsBefore = wal.stats().syncs;
  const writer = async () => {
    while (performance.now() - begin < seconds * 1000) {
      const entry = { term: 1, index: ++index, config: false, data };
      // The front is cut as a store does, so that segments are given back.
      const cut = index % 10_000 === 0
        ? { base: { to: { index: index - 1_000, term: 1, configuration: data }, reset: false } }
        : {};
      await new Promise<void>((resolve, reject) =>
        wal.append({ group: 1, entries: [entry], ...cut }, (error) => error ? reject(error) : resolve())
      );
    }
  };
  await Promise.all(Array.from({ length: writers }, writer));
  const measured = {
    recordsPerSecond: perSecond(index, begin),
    syncsPerSecond: perSecond(wal.stats().syncs - syncsBefore, begin),
  };
  await wal.close();
  return measured;
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

console.log(`wal append, ${payloadBytes} B records, ${rounds} rounds of ${seconds} s, medians`);
console.log("writers  bare records/s  bare fsyncs/s  wal records/s  wal fsyncs/s  ratio");
for (const writers of writersList) {
  const found = { bare: [] as Measured[], wal: [] as Measured[] };
  for (let round = 0; round < rounds; round++) {
    const dir = await Deno.makeTempDir({ prefix: "uc-wal-bench-" });
    try {
      found.bare.push(await bare(dir, writers));
      found.wal.push(await logged(dir, writers));
    } finally {
      await Deno.remove(dir, { recursive: true });
    }
  }
  const of = (list: readonly Measured[], key: keyof Measured) => median(list.map((m) => m[key]));
  const [b, w] = [of(found.bare, "recordsPerSecond"), of(found.wal, "recordsPerSecond")];
  const cells = [writers, b, of(found.bare, "syncsPerSecond"), w, of(found.wal, "syncsPerSecond")].map((n) =>
    Math.round(n).toString()
  );
  console.log(
    [
      cells[0]!.padStart(7),
      cells[1]!.padStart(15),
      cells[2]!.padStart(14),
      cells[3]!.padStart(14),
      cells[4]!.padStart(13),
      (w / b).toFixed(2).padStart(6),
    ].join(" "),
  );
}

import { parseArgs } from "node:util";
import { systemClock, utf8 } from "@ultracloud/base";
import { openDatabase } from "@ultracloud/sqlite";
import { encodeEntry } from "../state/entry_codec.ts";
import { ChainfireState } from "../state/machine.ts";
import { openSchema } from "../state/schema.ts";

const { values } = parseArgs({
  args: Deno.args.filter((arg) => arg !== "--"),
  options: { keys: { type: "string", default: "300000" } },
});
const keys = Number(values.keys);
const dir = await Deno.makeTempDir();
try {
  const file = `${dir}/state.db`;
  using db = openDatabase(file, { incrementalVacuum: true });
  openSchema(db);
  const state = new ChainfireState(db, file);
  const value = new Uint8Array(256).fill(120);
  const put = { kind: "put", value, lease: 0n, prevKv: false, ignoreValue: false, ignoreLease: false } as const;
  for (let index = 1; index <= keys;) {
    const batch = [];
    for (let i = 0; i < 1_000 && index <= keys; i++, index++) {
      const command = { ...put, key: utf8.encode(`key/${String(index).padStart(8, "0")}`) };
      batch.push({ index, term: 1, data: encodeEntry({ clockMs: 0, call: undefined, command }) });
    }
    state.applyBatch(batch);
  }
  state.checkpoint();
  let longestMs = 0, running = true, last = performance.now();
  const looking = (async () => {
    while (running) {
      await systemClock.sleep(0);
      longestMs = Math.max(longestMs, performance.now() - last);
      last = performance.now();
    }
  })();
  await systemClock.sleep(50);
  longestMs = 0;
  const startMs = performance.now();
  await state.snapshotTo(`${dir}/snapshot`);
  await systemClock.sleep(0);
  const tookMs = performance.now() - startMs;
  running = false;
  await looking;
  const { size } = await Deno.stat(`${dir}/snapshot`);
  console.log(
    `snapshot of ${keys} keys, ${(size / 2 ** 20).toFixed(0)} MiB: ${tookMs.toFixed(0)} ms, ` +
      `longest stall of the event loop ${longestMs.toFixed(1)} ms`,
  );
} finally {
  await Deno.remove(dir, { recursive: true });
}

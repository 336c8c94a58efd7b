import { utf8 } from "@ultracloud/base";
import { openDatabase } from "@ultracloud/sqlite";
import assert from "node:assert/strict";
import { setImmediate } from "node:timers";
import { encodeEntry } from "./entry_codec.ts";
import { ChainfireState } from "./machine.ts";

const put = (index: number, text: string) => ({
  index,
  term: 1,
  data: encodeEntry({
    clockMs: 0,
    call: undefined,
    command: {
      kind: "put",
      key: utf8.encode(`key/${index % 3_000}`),
      value: utf8.encode(text.padEnd(200)),
      lease: 0n,
      prevKv: false,
      ignoreValue: false,
      ignoreLease: false,
    },
  }),
});

Deno.test("snapshotTo() lets others run between its pieces, and what they change is not in it", async () => {
  const dir = await Deno.makeTempDir();
  try {
    using db = openDatabase(`${dir}/state.db`, { incrementalVacuum: true });
    const state = new ChainfireState(db, `${dir}/state.db`);
    for (let index = 1; index <= 10_000; index += 500) {
      state.applyBatch(Array.from({ length: 500 }, (_, i) => put(index + i, "before")));
    }
    const wanted = state.snapshot();
    let turns = 0, index = 10_000, writing = true;
    const others = (async () => {
      while (writing) {
        await new Promise((resolve) => void setImmediate(resolve));
        state.applyBatch([put(++index, "after")]);
        if (++turns % 16 === 0) state.sweep();
      }
    })();
    const at = await state.snapshotTo(`${dir}/snapshot`);
    writing = false;
    await others;
    // About two and a half mebibytes: a turn for each 64 KiB of them.
    assert.ok(turns >= 30, `Only ${turns} turns in between`);
    assert.equal(at, 10_000);
    using copy = openDatabase(`${dir}/copy.db`, { incrementalVacuum: true });
    const restored = new ChainfireState(copy, `${dir}/copy.db`);
    await restored.restoreFrom(at, `${dir}/snapshot`);
    assert.deepEqual(restored.snapshot(), wanted);
    assert.equal(state.appliedIndex(), index);
    // The reader is gone: nothing holds the checkpoint back.
    assert.equal(state.checkpoint(), index);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

import assert from "node:assert/strict";
import { seededRng, uniform, utf8 } from "@ultracloud/base";
import { SimDisk } from "@ultracloud/testing";
import { openWal, type Wal, type WalWrite } from "./mod.ts";

/** One record's worth of change, as plainly as it can be said. */
type Change =
  | { readonly kind: "entry"; readonly group: number; readonly index: number; readonly text: string }
  | { readonly kind: "base"; readonly group: number; readonly index: number; readonly reset: boolean }
  | { readonly kind: "hard_state"; readonly group: number; readonly term: number };

interface GroupModel {
  base: number;
  term: number;
  entries: string[];
}
type Model = Map<number, GroupModel>;

function modelOf(changes: readonly Change[]): Model {
  const model: Model = new Map();
  for (const change of changes) {
    const group = model.get(change.group) ?? { base: 0, term: 0, entries: [] };
    model.set(change.group, group);
    if (change.kind === "hard_state") group.term = change.term;
    else if (change.kind === "entry") {
      group.entries.length = change.index - group.base - 1;
      group.entries.push(change.text);
    } else {
      group.entries = change.reset ? [] : group.entries.slice(change.index - group.base);
      group.base = change.index;
    }
  }
  return model;
}

function seen(wal: Wal, groups: Iterable<number>): string {
  const lines: string[] = [];
  for (const group of groups) {
    const index = wal.index(group);
    const texts: string[] = [];
    for (let i = index.firstIndex(); i <= index.lastIndex(); i++) texts.push(utf8.decode(wal.read(group, i).data));
    lines.push(lineOf(group, index.base.index, index.hardState.term, texts));
  }
  return lines.join("\n");
}

const lineOf = (group: number, base: number, term: number, texts: readonly string[]) =>
  `${group}: base ${base}, term ${term}, ${texts.join(" ")}`;
const groups = [1, 2, 3];
const expected = (changes: readonly Change[]) => {
  const model = modelOf(changes);
  return groups.map((id) => {
    const { base, term, entries } = model.get(id) ?? { base: 0, term: 0, entries: [] };
    return lineOf(id, base, term, entries);
  }).join("\n");
};

/** Gives the log's own turns of the event loop a chance, while syncs wait for the test. */
async function settle(): Promise<void> {
  for (let i = 0; i < 10; i++) await Promise.resolve();
}

Deno.test("after any crash the log holds all that was acknowledged, then a prefix of what was asked, and nothing else", async () => {
  let crashes = 0;
  let torn = 0;
  for (let seed = 1; seed <= 150; seed++) {
    const rng = seededRng(seed);
    let syncs: (() => void)[] = [];
    const disk = new SimDisk({ rng, after: (_ms, run) => void syncs.push(run) });
    const open = () =>
      openWal({ dir: "/wal", segmentBytes: 600 + uniform(rng, 2_000) }, {
        disk,
        onFatal: (error) => assert.fail(error),
      });
    let wal = open();
    let changes: Change[] = [];
    let acknowledged = 0;
    for (let step = 0; step < 150; step++) {
      const at = `seed ${seed} step ${step}`;
      const action = uniform(rng, 10);
      if (action < 5) {
        const asked = randomWrite(rng, changes, step);
        changes.push(...asked.changes);
        const through = changes.length;
        wal.append(asked.write, (error) => {
          assert.equal(error, undefined);
          acknowledged = Math.max(acknowledged, through);
        });
        await settle();
      } else if (action < 9) {
        syncs.shift()?.();
        await settle();
      } else {
        syncs = [];
        // A killed process leaves what it wrote to the machine, which may then crash as well.
        if (uniform(rng, 2) === 0) disk.kill();
        else disk.crash();
        crashes++;
        wal = open();
        const found = seen(wal, groups);
        let held = -1;
        for (let n = acknowledged; n <= changes.length && held < 0; n++) {
          if (expected(changes.slice(0, n)) === found) held = n;
        }
        assert.ok(held >= 0, `${at}: ${acknowledged} of ${changes.length} were acknowledged, found\n${found}`);
        if (held < changes.length) torn++;
        changes = changes.slice(0, held);
        acknowledged = 0;
        // What was found was not synced by this process; the next acknowledged write makes it so.
      }
    }
  }
  assert.ok(crashes > 1_000 && torn > 300, `${crashes} crashes, ${torn} that lost something`);
});

Deno.test("a failing sync ends the log: nothing after it is acknowledged", async () => {
  const disk = new SimDisk({ rng: seededRng(1) });
  const fatal: Error[] = [];
  const wal = openWal({ dir: "/wal" }, { disk, onFatal: (error) => void fatal.push(error) });
  disk.failSyncs(1);
  const outcomes: string[] = [];
  const entries = [{ term: 1, index: 1, config: false, data: utf8.encode("x") }];
  wal.append({ group: 1, entries }, (error) => void outcomes.push(error ? "failed" : "acknowledged"));
  while (fatal.length === 0) await settle();
  wal.append({ group: 1, hardState: { term: 2, vote: 1, commit: 0 } }, (error) => {
    outcomes.push(error ? "failed" : "acknowledged");
  });
  await settle();
  assert.ok(!outcomes.includes("acknowledged"), outcomes.join());
  assert.equal(fatal.length, 1);
});

function randomWrite(
  rng: ReturnType<typeof seededRng>,
  changes: readonly Change[],
  step: number,
): { write: WalWrite; changes: Change[] } {
  const group = groups[uniform(rng, groups.length)]!;
  const now = modelOf(changes).get(group) ?? { base: 0, term: 0, entries: [] };
  const last = now.base + now.entries.length;
  if (uniform(rng, 6) === 0 && last > now.base) {
    const reset = uniform(rng, 4) === 0;
    const index = reset ? last + 5 : now.base + 1 + uniform(rng, last - now.base);
    const to = { index, term: 1, configuration: new Uint8Array(0) };
    return { write: { group, base: { to, reset } }, changes: [{ kind: "base", group, index, reset }] };
  }
  const first = now.base + 1 + uniform(rng, now.entries.length + 1);
  const texts = Array.from({ length: uniform(rng, 4) }, (_, i) => `${step}.${i}${"x".repeat(uniform(rng, 120))}`);
  const term = step + 1;
  const hardState = texts.length === 0 || uniform(rng, 3) === 0 ? { term, vote: 1, commit: 0 } : undefined;
  return {
    write: {
      group,
      hardState,
      entries: texts.map((text, i) => ({ term, index: first + i, config: false, data: utf8.encode(text) })),
    },
    changes: [
      ...(hardState ? [{ kind: "hard_state", group, term } as const] : []),
      ...texts.map((text, i) => ({ kind: "entry", group, index: first + i, text } as const)),
    ],
  };
}

import { seededRng, uniform } from "@ultracloud/base";
import assert from "node:assert/strict";
import type { KvEvent } from "../domain/types.ts";
import { splitEvents } from "./split.ts";

const event = (revision: number, size: number): KvEvent => ({
  type: "put",
  kv: {
    key: new Uint8Array(1),
    value: new Uint8Array(size),
    createRevision: revision,
    modRevision: revision,
    version: 1,
    lease: 0n,
  },
  prev: undefined,
});

Deno.test("splitEvents() loses nothing, cuts revisions only when allowed, and says where one goes on", () => {
  for (let seed = 1; seed <= 200; seed++) {
    const rng = seededRng(seed);
    let revision = 2;
    const events = Array.from({ length: 1 + uniform(rng, 30) }, () => {
      if (uniform(rng, 3) === 0) revision++;
      return event(revision, uniform(rng, 50));
    });
    for (const fragments of [true, false]) {
      const parts = [...splitEvents(events, fragments, 60)];
      assert.deepEqual(parts.flatMap((part) => part.events), events, `seed ${seed}`);
      parts.forEach((part, i) => {
        const size = part.events.reduce((sum, { kv }) => sum + 1 + kv.value.length, 0);
        const next = parts[i + 1]?.events[0]?.kv.modRevision;
        assert.equal(part.fragment, next === part.events.at(-1)!.kv.modRevision, `seed ${seed}`);
        if (fragments) assert.ok(size <= 60 || part.events.length === 1, `seed ${seed}: ${size} bytes`);
        else assert.equal(part.fragment, false);
      });
    }
  }
});

import assert from "node:assert/strict";
import fc from "fast-check";
import { afterPrefix, compareKeys, decodePageToken, encodePageToken, keyRange } from "../domain/ranges.ts";
import { LoggedMachine } from "./_machine_fixture.ts";

interface Held {
  value: string;
  version: number;
  expireMs: number | undefined;
}

/** Few keys, so that they meet; some from beyond the basic plane, where UTF-16 and UTF-8 order differ. */
const keys = fc.constantFrom("a", "aa", "ab", "b", "b/1", "b/2", "c", "ｚ", "😀", "😀a");
const bounds = fc.constantFrom("", "a", "aa", "b", "b/", "b/2", "c", "ｚ", "😀");
const commands = fc.oneof(
  fc.record({ do: fc.constant("put" as const), key: keys, ttl: fc.constantFrom(0, 0, 5, 20) }),
  fc.record({ do: fc.constant("delete" as const), key: keys }),
  fc.record({ do: fc.constant("cas" as const), key: keys, right: fc.boolean() }),
  fc.record({
    do: fc.constant("batch" as const),
    puts: fc.uniqueArray(keys, { maxLength: 4 }),
    when: keys,
    right: fc.boolean(),
  }),
  fc.record({ do: fc.constant("wait" as const), ms: fc.integer({ min: 1, max: 10 }) }),
  fc.record({ do: fc.constant("sweep" as const) }),
  fc.record({
    do: fc.constant("scan" as const),
    prefix: bounds,
    start: bounds,
    end: bounds,
    limit: fc.integer({ min: 1, max: 4 }),
    reverse: fc.boolean(),
  }),
);

Deno.test("KV does what a map with versions does, whatever comes in whichever order", () => {
  fc.assert(
    fc.property(fc.array(commands, { maxLength: 60 }), (sequence) => {
      using m = new LoggedMachine();
      const twin = new Map<string, Held>();
      const told = new Map<string, string>();
      const alive = (key: string) => {
        const held = twin.get(key);
        return held && (held.expireMs === undefined || held.expireMs > m.machine.timeMs) ? held : undefined;
      };
      const put = (key: string, ttl = 0) =>
        twin.set(key, {
          value: `v${m.log.length}`,
          version: m.log.length,
          expireMs: ttl === 0 ? undefined : m.nowMs + ttl,
        });
      const value = () => new TextEncoder().encode(`v${m.log.length + 1}`);
      for (const command of sequence) {
        switch (command.do) {
          case "put":
            m.put({ bucket: "b", key: command.key, value: value(), ttlMs: BigInt(command.ttl) });
            put(command.key, command.ttl);
            break;
          case "delete": {
            // The entry's own time decides.
            const { existed } = m.delete({ bucket: "b", key: command.key });
            assert.equal(existed, alive(command.key) !== undefined);
            twin.delete(command.key);
            break;
          }
          case "cas": {
            m.sweep();
            const version = alive(command.key)?.version ?? 0;
            const expectedVersion = BigInt(command.right ? version : version + 1);
            const { swapped } = m.cas({ bucket: "b", key: command.key, expectedVersion, value: value() });
            assert.equal(swapped, command.right);
            if (swapped) put(command.key);
            break;
          }
          case "batch": {
            m.sweep();
            const version = BigInt(alive(command.when)?.version ?? 0) + (command.right ? 0n : 1n);
            const { committed } = m.batchWrite({
              conditions: [{ bucket: "b", key: command.when, version }],
              writes: command.puts.map((key) => ({
                bucket: "b",
                key,
                action: { case: "put" as const, value: value() },
              })),
            });
            assert.equal(committed, command.right);
            if (committed) { for (const key of command.puts) put(key); }
            break;
          }
          case "wait":
            m.nowMs += command.ms;
            break;
          case "sweep":
            m.sweep();
            break;
          case "scan": {
            const { prefix, start, end, limit, reverse } = command;
            const found: string[] = [];
            let after: string | undefined;
            while (true) {
              const range = keyRange(prefix, start, end);
              const options = { nowMs: m.machine.timeMs, reverse, limit, bytesMax: 1e6, keysOnly: false, after };
              const page = m.machine.parts.kv.scan("b", range, options);
              for (const row of page.rows) {
                found.push(`${row.key}=${new TextDecoder().decode(row.value)}@${row.version}`);
              }
              if (!page.more) break;
              after = decodePageToken(encodePageToken(page.rows.at(-1)!.key));
            }
            const wanted = [...twin.keys()].filter((key) =>
              alive(key) && key.startsWith(prefix) && compareKeys(key, start) >= 0 &&
              (end === "" || compareKeys(key, end) < 0)
            ).sort(compareKeys).map((key) => `${key}=${twin.get(key)!.value}@${twin.get(key)!.version}`);
            assert.deepEqual(found, reverse ? wanted.reverse() : wanted);
          }
        }
      }
      // The changes alone rebuild the state.
      m.sweep();
      for (const change of m.machine.parts.changes.read("b", "", 0, m.machine.appliedIndex(), 1e9).changes) {
        if (change.value === null) told.delete(change.key);
        else told.set(change.key, new TextDecoder().decode(change.value));
      }
      assert.deepEqual(
        [...told].sort(),
        [...twin].filter(([key]) => alive(key)).map(([key, held]) => [key, held.value]).sort(),
      );
      using replayed = m.replay(5);
      assert.equal(replayed.hash(), m.machine.hash());
    }),
    { numRuns: 150 },
  );
});

Deno.test("the end of a prefix is above every text with it and below every greater one", () => {
  fc.assert(fc.property(fc.string({ unit: "binary" }), fc.string({ unit: "binary" }), (prefix, other) => {
    fc.pre(prefix.isWellFormed() && other.isWellFormed());
    const end = afterPrefix(prefix);
    const inside = compareKeys(other, prefix) >= 0 && (end === undefined || compareKeys(other, end) < 0);
    assert.equal(inside, other.startsWith(prefix));
  }));
});

Deno.test("keys are ordered by their UTF-8 bytes", () => {
  fc.assert(fc.property(fc.string({ unit: "binary" }), fc.string({ unit: "binary" }), (a, b) => {
    fc.pre(a.isWellFormed() && b.isWellFormed());
    const bytes = (text: string) =>
      [...new TextEncoder().encode(text)].map((x) => x.toString(16).padStart(2, "0")).join("");
    assert.equal(Math.sign(compareKeys(a, b)), bytes(a) < bytes(b) ? -1 : bytes(a) > bytes(b) ? 1 : 0);
  }));
});

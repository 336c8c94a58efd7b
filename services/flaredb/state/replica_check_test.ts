import assert from "node:assert/strict";
import { create, type DescMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { LoggedCheckSchema, LoggedReportSchema, PutRequestSchema } from "@ultracloud/proto/flaredb/v1";
import { encodeEntry, type EntryKind, entryKinds, noSeed } from "../domain/log_entry.ts";
import { DatabaseMachine } from "./database_machine.ts";

/** A replica on a file of its own, fed entry by entry. */
class Fed implements Disposable {
  machine: DatabaseMachine;
  readonly #path: string;
  constructor(path: string) {
    this.#path = path;
    this.machine = new DatabaseMachine({ path });
  }
  apply<D extends DescMessage>(kind: EntryKind, schema: D, request: MessageInitShape<D>): number {
    const payload = toBinary(schema, create(schema, request));
    const index = this.machine.appliedIndex() + 1;
    const data = encodeEntry({ kind, timeMs: 1, seed: noSeed, dedupe: undefined, payload });
    this.machine.applyBatch([{ index, term: 1, data }]);
    return index;
  }
  put(value: string): void {
    this.apply(entryKinds.put, PutRequestSchema, { bucket: "b", key: "k", value: new TextEncoder().encode(value) });
  }
  check(): number {
    return this.apply(entryKinds.hash, LoggedCheckSchema, { voters: [1n, 2n, 3n] });
  }
  report(index: number, member: number, sha256: string): void {
    const report = { index: BigInt(index), member: BigInt(member), sha256 };
    this.apply(entryKinds.report, LoggedReportSchema, report);
  }
  /** The process ends and begins. */
  restart(): void {
    this.machine.close();
    this.machine = new DatabaseMachine({ path: this.#path });
  }
  [Symbol.dispose](): void {
    this.machine.close();
  }
}

Deno.test("reports and the own digest outlive the process; what it owes is still owed, the finding stays", () => {
  const dir = Deno.makeTempDirSync();
  try {
    using fed = new Fed(`${dir}/a.db`);
    fed.put("x");
    const index = fed.check();
    const own = fed.machine.noted!;
    fed.report(index, 2, "other");
    fed.restart();
    assert.deepEqual({ ...fed.machine.parts.check.unreported(1) }, own);
    fed.report(index, 1, own.sha256);
    assert.equal(fed.machine.parts.check.unreported(1), undefined);
    assert.equal(fed.machine.diverged, false);
    fed.report(index, 3, "other");
    assert.equal(fed.machine.diverged, true);
    fed.restart();
    assert.equal(fed.machine.diverged, true);
    assert.deepEqual({ ...fed.machine.noted }, own);
    assert.throws(() => fed.machine.snapshot(), { code: "database_diverged" });
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});

Deno.test("content of another replica ends the finding, and the digest of what was there before", () => {
  using fed = new Fed(":memory:");
  using sound = new Fed(":memory:");
  for (const each of [fed, sound]) each.put("x");
  const index = fed.check();
  sound.check();
  for (const member of [2, 3]) for (const each of [fed, sound]) each.report(index, member, "other");
  assert.equal(fed.machine.diverged, true);
  using whole = new Fed(":memory:");
  whole.put("x");
  fed.machine.restore(whole.machine.appliedIndex(), whole.machine.snapshot());
  assert.equal(fed.machine.diverged, false);
  assert.equal(fed.machine.noted, undefined);
});

Deno.test("a member's first report counts, one check does not end another, and many are forgotten", () => {
  using fed = new Fed(":memory:");
  const first = fed.check();
  const second = fed.check();
  fed.report(first, 2, "a");
  fed.report(first, 2, "b");
  fed.report(second, 2, "c");
  fed.report(second, 9, "stranger");
  const said = (index: number) =>
    fed.machine.parts.check.testimonies(index).map(({ member, sha256 }) => [member, sha256]);
  assert.deepEqual(said(first), [[1, undefined], [2, "a"], [3, undefined]]);
  assert.deepEqual(said(second), [[1, undefined], [2, "c"], [3, undefined]]);
  for (let i = 0; i < 8; i++) fed.check();
  assert.deepEqual(said(first), []);
  fed.report(first, 3, "a");
  assert.deepEqual(said(first), []);
});

Deno.test("checks and reports are no part of what is compared", () => {
  using a = new Fed(":memory:");
  using b = new Fed(":memory:");
  for (const each of [a, b]) each.put("x");
  const index = a.check();
  a.report(index, 1, "x");
  assert.equal(a.machine.hash(), b.machine.hash());
});

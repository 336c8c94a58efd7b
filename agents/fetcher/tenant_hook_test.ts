import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { type Clock, fault, seededRng, systemClock } from "@ultracloud/base";
import { noopLogger, Registry } from "@ultracloud/observe";
import {
  type ChangesRequest,
  ChangesResponseSchema,
  RowChangeKind,
  WebhookDeliverySchema,
} from "@ultracloud/proto/flaredb/v1";
import type { Report } from "./reports.ts";
import { Slots } from "./slots.ts";
import { TenantHook } from "./tenant_hook.ts";

const giveUpMs = 3_600_000;

/** A webhook, the log of its database, what flaredb keeps of it, and a receiver. */
class Run {
  /** Indexes of entries that changed a row. */
  log: bigint[] = [];
  /** Entries up to here are not held. */
  cut = 0n;
  broken: Error | undefined;
  nowMs = 1_700_000_000_000;
  readonly record = { position: 1n, pendingIndex: 0n, failures: 0, lost: false, over: false, reason: "", nextTryMs: 0 };
  readonly got: { id: string; indexes: string[]; accepted: boolean; atMs: number }[] = [];
  readonly reports: Report[] = [];
  answer: (attempt: number) => number | Error = () => 200;
  #woken: (() => void)[] = [];

  append(...indexes: number[]): void {
    this.log.push(...indexes.map(BigInt));
    for (const wake of this.#woken.splice(0)) wake();
  }

  /** Follows the webhook from what flaredb keeps, until `holds` or until it ends by itself. */
  async until(holds: (run: Run) => boolean): Promise<void> {
    const stop = new AbortController();
    const { position, pendingIndex, failures, nextTryMs } = this.record;
    const nextTryTime = { seconds: BigInt(Math.floor(nextTryMs / 1_000)), nanos: 0 };
    const record = { position, pendingIndex, failures, ...(nextTryMs === 0 ? {} : { nextTryTime }) };
    const url = "https://receiver.test/in?token=hidden";
    const delivery = { ...record, id: 7n, revision: 3n, database: "t_shop", name: "orders", secret: "secret", url };
    // Waiting costs no time.
    const clock: Clock = {
      nowMs: () => this.nowMs,
      monotonicMs: () => this.nowMs,
      sleep: async (ms, signal) => {
        await systemClock.sleep(0);
        signal?.throwIfAborted();
        this.nowMs += ms;
      },
    };
    const hook = new TenantHook(create(WebhookDeliverySchema, delivery), {
      client: { changes: ((request: ChangesRequest) => this.#changes(request, stop.signal)) as never },
      reports: { send: (report) => Promise.resolve(this.#keep(report)) },
      slots: new Slots({ totalMax: 1, perKeyMax: 1 }),
      post: (body, headers) => {
        const { changes } = JSON.parse(body) as { changes: { index: string }[] };
        const status = this.answer(this.got.length + 1);
        const indexes = changes.map(({ index }) => index);
        this.got.push({ id: headers["webhook-id"]!, indexes, accepted: status === 200, atMs: this.nowMs });
        return typeof status === "number" ? Promise.resolve(status) : Promise.reject(status);
      },
      clock,
      rng: seededRng(1),
      log: noopLogger,
      deliveries: new Registry().counter("d_total", "Requests", ["hook", "outcome"]),
      giveUpMs,
    });
    const running = { over: false };
    const done = hook.run(stop.signal).finally(() => running.over = true);
    while (!holds(this) && !running.over) await systemClock.sleep(0);
    stop.abort();
    await done;
  }

  async *#changes({ afterIndex, pageBytes }: ChangesRequest, signal: AbortSignal) {
    assert.ok(pageBytes > 0);
    if (this.broken) throw this.broken;
    if (afterIndex < this.cut) {
      throw fault("out_of_range", "compacted", `Cannot tell changes after index ${afterIndex}`);
    }
    let at = afterIndex;
    yield create(ChangesResponseSchema, { index: at });
    while (!signal.aborted) {
      const indexes = this.log.filter((index) => index > at);
      if (indexes.length > 0) {
        at = indexes.at(-1)!;
        const changes = indexes.map((index) => ({ index, kind: RowChangeKind.INSERT, table: "t" }));
        yield create(ChangesResponseSchema, { index: at, changes });
        continue;
      }
      await new Promise<void>((resolve) => {
        this.#woken.push(resolve);
        signal.addEventListener("abort", () => resolve(), { once: true });
      });
    }
  }

  #keep(report: Report): void {
    this.reports.push(report);
    const { record } = this;
    if ((report.position ?? 0n) > record.position) record.position = report.position!;
    const { failure, accepted } = report;
    if (accepted) Object.assign(record, { pendingIndex: 0n, failures: 0, reason: "", nextTryMs: 0 });
    if (!failure) return;
    record.failures++;
    record.pendingIndex = failure.pendingIndex ?? 0n;
    record.reason = failure.reason ?? "";
    record.lost = failure.lost ?? false;
    record.over = failure.nextTryTime === undefined;
    record.nextTryMs = failure.nextTryTime === undefined ? 0 : timestampMs(failure.nextTryTime as never);
  }
}

Deno.test("a tenant's webhook gets each change in order; what fails comes again, alone and under the same id", async () => {
  const run = new Run();
  run.append(3, 4);
  run.answer = (attempt) => {
    // More happens meanwhile: it waits its turn.
    if (attempt < 4) run.append(attempt + 4);
    return attempt < 4 ? 500 : 200;
  };
  await run.until(({ record }) => record.position === 7n);
  assert.deepEqual(run.got.map(({ id, indexes, accepted }) => [id, indexes.join(), accepted]), [
    ["t_shop.7.4", "3,4", false],
    ["t_shop.7.4", "3,4", false],
    ["t_shop.7.4", "3,4", false],
    ["t_shop.7.4", "3,4", true],
    ["t_shop.7.7", "5,6,7", true],
  ]);
  assert.equal(run.record.failures, 0);
});

Deno.test("a killed fetcher goes on under the same id, and not before the next try is due", async () => {
  const run = new Run();
  run.append(3);
  run.answer = () => 503;
  await run.until(({ got }) => got.length === 4);
  const { nextTryMs } = run.record;
  assert.ok(nextTryMs > run.nowMs);
  run.append(9);
  run.answer = () => 200;
  await run.until(({ record }) => record.position === 9n);
  assert.deepEqual(run.got.slice(3).map(({ id, indexes }) => [id, indexes.join()]), [
    ["t_shop.7.3", "3"],
    ["t_shop.7.3", "3"],
    ["t_shop.7.9", "9"],
  ]);
  assert.ok(run.got[4]!.atMs >= nextTryMs - 1_000, `${run.got[4]!.atMs} is before ${nextTryMs}`);
});

Deno.test("tries are bounded: a receiver that refuses is given up after a while, one that is gone at once", async () => {
  const run = new Run();
  run.append(3);
  run.answer = () => 500;
  await run.until(() => false);
  assert.equal(run.record.over, true);
  assert.equal(run.record.lost, false);
  assert.equal(run.record.position, 1n);
  assert.equal(run.record.reason, "The receiver answered 500: wanted 200 to 299");
  assert.ok(run.got.length > 10 && run.got.length < 100, `${run.got.length} tries`);
  const spentMs = run.got.at(-1)!.atMs - run.got[0]!.atMs;
  assert.ok(spentMs >= giveUpMs && spentMs < giveUpMs * 1.2, `${spentMs} ms`);

  const gone = new Run();
  gone.append(3);
  gone.answer = () => 410;
  await gone.until(() => false);
  assert.deepEqual([gone.got.length, gone.record.over, gone.record.failures], [1, true, 1]);
});

Deno.test("changes that are no longer held are said to be lost; a flaredb that is away is no failure", async () => {
  const run = new Run();
  run.append(3, 8);
  run.cut = 5n;
  await run.until(() => false);
  assert.deepEqual([run.got.length, run.record.lost, run.record.over, run.record.position], [0, true, true, 1n]);
  assert.match(run.record.reason, /^Cannot tell changes after index 1/);

  const away = new Run();
  away.append(3);
  away.broken = fault("unavailable", "unreachable", "Cannot reach flaredb");
  const beganMs = away.nowMs;
  await away.until(({ nowMs }) => nowMs > beganMs + 60_000);
  assert.equal(away.reports.length, 0);
  away.broken = undefined;
  await away.until(({ record }) => record.position === 3n);

  const off = new Run();
  off.broken = fault("failed_precondition", "not_captured", "Cannot tell changes of rows: wanted the setting capture");
  await off.until(({ record }) => record.failures === 3);
  assert.match(off.record.reason, /wanted the setting capture/);
});

Deno.test("a tenant is told neither addresses nor what the runtime says of them", async () => {
  const inner = "10.0.0.5";
  const said = new Map([
    ["hook_address_refused", "Cannot post to receiver.test: wanted a name with public IPv4 addresses only"],
    ["hook_unresolved", "Cannot post to receiver.test: wanted a name with public IPv4 addresses only"],
    ["hook_unreachable", "Cannot reach receiver.test"],
    ["hook_answer_malformed", "Cannot read what receiver.test answers: wanted HTTP/1.1"],
    ["something_else", "Cannot reach receiver.test"],
  ]);
  for (const [code, reason] of said) {
    const run = new Run();
    run.append(3);
    run.answer = () => fault("unavailable", code, `Requires net access to ${inner}:80, SSH-2.0`);
    await run.until(({ record }) => record.failures === 1);
    assert.equal(run.record.reason, reason);
  }
});

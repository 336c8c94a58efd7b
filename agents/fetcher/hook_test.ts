import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { type Clock, fault, seededRng, systemClock } from "@ultracloud/base";
import { Health, noopLogger, Registry } from "@ultracloud/observe";
import {
  type ChangesRequest,
  type ChangesResponse,
  ChangesResponseSchema,
  RowChangeKind,
} from "@ultracloud/proto/flaredb/v1";
import { createHmac } from "node:crypto";
import { Hook } from "./hook.ts";
import { ProgressFile } from "./progress_file.ts";

const secret = "a secret of the receiver";

/** A page with one inserted row, whose only value is the index. */
function page(index: number, rows = 1): ChangesResponse {
  const value = { kind: { case: "integer" as const, value: BigInt(index) } };
  const changes = Array.from({ length: rows }, () => ({
    index: BigInt(index),
    kind: RowChangeKind.INSERT,
    table: "t",
    columns: ["a"],
    after: [{ column: "a", value }],
  }));
  return create(ChangesResponseSchema, { index: BigInt(index), changes });
}

/** A hook on a database whose log is `pages`, and a receiver that answers what `answer` says to each request. */
class Run implements Disposable {
  readonly dir = Deno.makeTempDirSync();
  readonly progress = new ProgressFile(`${this.dir}/orders.index`);
  readonly health = new Health();
  readonly accepted: string[] = [];
  readonly ids: string[] = [];
  readonly asked: bigint[] = [];
  readonly pages: ChangesResponse[];
  answer: (attempt: number) => number = () => 200;
  lost = false;
  #attempt = 0;

  constructor(...pages: ChangesResponse[]) {
    this.pages = pages;
  }

  /** Runs until everything was accepted, or the hook stops by itself. */
  async until(index: bigint | "stopped"): Promise<void> {
    const stop = new AbortController();
    const { pages, asked, lost } = this;
    const changes = async function* ({ afterIndex = 0n }: Partial<ChangesRequest>) {
      asked.push(afterIndex);
      if (lost) throw fault("out_of_range", "compacted", "Cannot watch after that index");
      const from = afterIndex === 0n ? 0n : afterIndex;
      yield create(ChangesResponseSchema, { index: from });
      for (const each of pages) if (each.index > from) yield each;
      await new Promise((resolve) => stop.signal.addEventListener("abort", resolve));
    };
    // Waiting costs no time.
    let nowMs = 0;
    const clock: Clock = {
      nowMs: () => 1_700_000_000_000 + nowMs,
      monotonicMs: () => nowMs,
      sleep: (ms, signal) => {
        nowMs += ms;
        return signal?.aborted ? Promise.reject(signal.reason) : Promise.resolve();
      },
    };
    const post = (body: string, headers: Readonly<Record<string, string>>) => {
      this.ids.push(headers["webhook-id"]!);
      const signed = `${headers["webhook-id"]}.${headers["webhook-timestamp"]}.${body}`;
      const proof = createHmac("sha256", secret).update(signed).digest("base64");
      assert.equal(headers["webhook-signature"], `v1,${proof}`);
      const status = this.answer(++this.#attempt);
      if (status === 200) this.accepted.push(body);
      return Promise.resolve(status);
    };
    const deliveries = new Registry().counter("d_total", "Requests", ["hook", "outcome"]);
    const hook = new Hook({ name: "orders", database: "t_shop", tables: [], secret, giveUpMs: 60_000 }, {
      client: { changes: changes as never },
      progress: this.progress,
      post,
      clock,
      rng: seededRng(1),
      log: noopLogger,
      health: this.health,
      deliveries,
    });
    const running = hook.run(stop.signal);
    if (index === "stopped") return await running;
    while (this.progress.read() !== index) await systemClock.sleep(1);
    stop.abort();
    await running;
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.dir, { recursive: true });
  }
}

Deno.test("a hook posts whole pages in order, signed, and goes on where it was after a restart", async () => {
  using run = new Run(page(3), page(5, 2));
  run.progress.write(1n);
  await run.until(5n);
  assert.deepEqual(run.ids, ["orders.3", "orders.5"]);
  assert.deepEqual(JSON.parse(run.accepted[1]!), {
    hook: "orders",
    database: "t_shop",
    index: "5",
    changes: [5, 5].map((a) => ({ index: "5", kind: "insert", table: "t", after: { a } })),
  });
  run.pages.push(page(9));
  await run.until(9n);
  assert.deepEqual(run.ids, ["orders.3", "orders.5", "orders.9"]);
  assert.equal(run.asked.at(0), 1n);
  assert.equal(run.asked.at(-1), 9n);
});

Deno.test("what a receiver does not accept is posted again under the same id, and nothing overtakes it", async () => {
  using run = new Run(page(3), page(5));
  run.progress.write(1n);
  run.answer = (attempt) => attempt <= 4 ? [500, 302, 404, 429][attempt - 1]! : 200;
  await run.until(5n);
  assert.deepEqual(run.ids, ["orders.3", "orders.3", "orders.3", "orders.3", "orders.3", "orders.5"]);
  assert.equal(run.health.snapshot().state, "ready");
});

Deno.test("a hook gives up in bounded time, stops at 410 and when changes are no longer held; the index stays", async () => {
  for (const [why, answer] of [["500", 500], ["410", 410]] as const) {
    using run = new Run(page(3));
    run.progress.write(1n);
    run.answer = () => answer;
    await run.until("stopped");
    assert.equal(run.progress.read(), 1n);
    assert.ok(answer === 410 ? run.ids.length === 1 : run.ids.length > 5 && run.ids.length < 60, `${run.ids.length}`);
    const { state, parts } = run.health.snapshot();
    assert.equal(state, "degraded");
    assert.match(parts["hook orders"]!.reason!, new RegExp(`stopped: .*${why}`));
  }
  using run = new Run();
  run.lost = true;
  run.progress.write(1n);
  await run.until("stopped");
  assert.deepEqual(run.asked, [1n]);
});

Deno.test("a progress file that cannot be read stops the hook; it does not begin anew", async () => {
  using run = new Run(page(3));
  Deno.writeTextFileSync(`${run.dir}/orders.index`, "12x");
  await run.until("stopped");
  assert.deepEqual(run.ids, []);
});

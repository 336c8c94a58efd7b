import assert from "node:assert/strict";
import { systemClock } from "@ultracloud/base";
import { toFault } from "@ultracloud/rpc";
import type { Clients, Members } from "./test_members.ts";

/** What the load writes to. */
export const database = "t_load";
const utf8 = new TextEncoder();
const waitMs = 120_000;

/** Waits for a condition, at most two minutes; what throws does not hold yet. */
export async function until(what: string, condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + waitMs;
  while (!await condition().catch(() => false)) {
    if (performance.now() > deadline) throw new Error(`Waited too long for ${what}`);
    await systemClock.sleep(50);
  }
}

/** Writers that repeat each request under its key until it is answered, and remember what was. */
export class Load {
  readonly rows = new Set<string>();
  readonly keys = new Set<string>();
  retried = 0;
  #stop = false;
  #next = 0;
  readonly #running: Promise<void>[];

  constructor(clients: Clients, writers: number) {
    this.#running = Array.from({ length: writers }, () => this.#write(clients));
  }

  get answered(): number {
    return this.rows.size + this.keys.size;
  }

  async #write({ sql, kv }: Clients): Promise<void> {
    while (!this.#stop) {
      const id = `op${this.#next++}`;
      const headers = { "idempotency-key": id };
      for (let tries = 0;; tries++) {
        try {
          if (id.length % 2 === 0) {
            const statement = {
              sql: "INSERT INTO entry(op) VALUES(?)",
              positional: [{ kind: { case: "text" as const, value: id } }],
            };
            await sql.execute({ database, statement }, { headers });
            this.rows.add(id);
          } else {
            await kv.put({ database, bucket: "b", key: id, value: utf8.encode(id) }, { headers });
            this.keys.add(id);
          }
          break;
        } catch (error) {
          const { kind, code } = toFault(error);
          assert.ok(["unavailable", "deadline_exceeded", "resource_exhausted"].includes(kind), `${code}: ${error}`);
          this.retried++;
          await systemClock.sleep(20);
        }
      }
    }
  }

  /** Waits until this many more writes were answered. */
  async more(count: number): Promise<void> {
    const wanted = this.answered + count;
    await until(`${count} more writes`, () => Promise.resolve(this.answered >= wanted));
  }

  async stop(): Promise<void> {
    this.#stop = true;
    await Promise.all(this.#running);
  }
}

/** The member that leads the database, by the newest term that any member knows of. */
export async function leaderOf(members: Members): Promise<number> {
  let leader = 0;
  using stack = new DisposableStack();
  const each = members.urls.map((url) => members.clients(stack, [url]).databases);
  await until("a leader", async () => {
    const answers = await Promise.all(each.map((one) => one.status({}, { timeoutMs: 2_000 }).catch(() => undefined)));
    const views = answers.flatMap((answer) => answer?.groups.find((group) => group.database === database) ?? []);
    const newest = views.sort((x, y) => Number(y.term - x.term)).find((view) => view.leader !== 0n);
    leader = Number(newest?.leader ?? 0n);
    return leader !== 0;
  });
  return leader;
}

/** Every answered write is there once, and every replica has the same content. */
export async function judge(members: Members, clients: Clients, load: Load): Promise<void> {
  let result: Awaited<ReturnType<typeof clients.sql.query>>["result"];
  // Leaders may just be moving: a client with patience is answered.
  await until("the rows", async () => {
    const statement = { sql: "SELECT op, count(*) FROM entry GROUP BY op" };
    ({ result } = await clients.sql.query({ database, statement, rowLimit: 100_000 }));
    return true;
  });
  const counts = new Map(
    result!.rows.map(({ values }) => [String(values[0]!.kind.value), Number(values[1]!.kind.value)]),
  );
  assert.deepEqual([...counts].filter(([, count]) => count !== 1), [], "rows written twice");
  assert.deepEqual([...load.rows].filter((op) => !counts.has(op)), [], "answered rows that are lost");
  assert.equal(counts.size, load.rows.size, "rows and answers");
  const keys = new Set<string>();
  await until("the keys", async () => {
    for (let pageToken = "", first = true; first || pageToken !== ""; first = false) {
      const page = await clients.kv.scan({ database, bucket: "b", keysOnly: true, limit: 10_000, pageToken });
      for (const { key } of page.items) keys.add(key);
      pageToken = page.nextPageToken;
    }
    return true;
  });
  assert.deepEqual([...load.keys].filter((key) => !keys.has(key)), [], "answered keys that are lost");
  let check: Awaited<ReturnType<typeof clients.databases.checkReplicas>>;
  await until("a digest", async () => {
    check = await clients.databases.checkReplicas({ name: database });
    return true;
  });
  await until("the replicas to agree", async () => {
    using stack = new DisposableStack();
    const all = await Promise.all(members.urls.map(async (url) => {
      const { groups } = await members.clients(stack, [url]).databases.status({});
      return groups.find((group) => group.database === database);
    }));
    const holding = all.filter((group) => group !== undefined);
    assert.ok(holding.every(({ diverged }) => !diverged));
    return holding.length >= 3 &&
      holding.every((g) => g.checkedIndex === check.index && g.checkedSha256 === check.sha256);
  });
}

/** Makes the database and its table. */
export async function found(clients: Clients): Promise<void> {
  const replicas = [1n, 2n, 3n];
  await until("the database", async () => {
    await clients.databases.createDatabase({ name: database, ifNotExists: true, replicas });
    return true;
  });
  await until("the table", async () => {
    await clients.sql.execute({
      database,
      statement: { sql: "CREATE TABLE IF NOT EXISTS entry(n INTEGER PRIMARY KEY, op TEXT)" },
    });
    return true;
  });
}

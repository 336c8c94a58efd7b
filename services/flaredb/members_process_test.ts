import assert from "node:assert/strict";
import { systemClock } from "@ultracloud/base";
import { toFault } from "@ultracloud/rpc";
import { testUnless } from "@ultracloud/testing";
import { type Clients, type Members, startMembers } from "./test_members.ts";

const database = "t_load";
const utf8 = new TextEncoder();
const waitMs = 120_000;

async function until(what: string, condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + waitMs;
  while (!await condition().catch(() => false)) {
    if (performance.now() > deadline) throw new Error(`Waited too long for ${what}`);
    await systemClock.sleep(50);
  }
}

/** Writers that repeat each request under its key until it is answered, and remember what was. */
class Load {
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

async function leaderOf({ databases }: Clients): Promise<number> {
  let leader = 0;
  await until("a leader", async () => {
    const { groups } = await databases.status({});
    leader = Number(groups.find((group) => group.database === database)?.leader ?? 0n);
    return leader !== 0;
  });
  return leader;
}

/** Every answered write is there once, and every replica has the same content. */
async function judge(members: Members, clients: Clients, load: Load): Promise<void> {
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
  for (let pageToken = "", first = true; first || pageToken !== ""; first = false) {
    const page = await clients.kv.scan({ database, bucket: "b", keysOnly: true, limit: 10_000, pageToken });
    for (const { key } of page.items) keys.add(key);
    pageToken = page.nextPageToken;
  }
  assert.deepEqual([...load.keys].filter((key) => !keys.has(key)), [], "answered keys that are lost");
  const check = await clients.databases.checkReplicas({ name: database });
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

async function found(clients: Clients): Promise<void> {
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

Deno.test("kill -9, a stopped process and moves under load lose no answered write and double none", async () => {
  await using members = await startMembers(4);
  using stack = new DisposableStack();
  const clients = members.clients(stack);
  await found(clients);
  const load = new Load(clients, 6);
  await load.more(100);

  const killed = await leaderOf(clients);
  await members.process(killed).kill();
  await load.more(100);
  await members.start(killed);

  // A process that does not run and does not die: to the others, a partition.
  const stopped = await leaderOf(clients);
  const { pid } = members.process(stopped).identity;
  Deno.kill(pid, "SIGSTOP");
  try {
    await load.more(100);
  } finally {
    Deno.kill(pid, "SIGCONT");
  }
  await load.more(50);

  // Every replica but one moves, the leader among them.
  const placed = async () => {
    const { replicas, placed } = await clients.databases.getDatabase({ name: database });
    return placed ? replicas.map(Number).sort() : [];
  };
  const leader = await leaderOf(clients);
  const wanted = [1, 2, 3, 4].filter((id) => id !== leader);
  await clients.databases.placeDatabase({ name: database, replicas: wanted.map(BigInt) });
  await load.more(50);
  await until("the move", async () => (await placed()).join() === wanted.join());
  await until("the old replica's files to go", () => {
    const files = [...Deno.readDirSync(`${members.stateDir(leader)}/databases`)].map(({ name }) => name);
    return Promise.resolve(!files.some((name) => name.startsWith(`${database}.`)));
  });
  await load.more(50);
  await load.stop();
  assert.ok(load.retried > 0, "no request was ever repeated");
  await judge(members, clients, load);
});

Deno.test("leaders spread over the members by themselves", async () => {
  await using members = await startMembers(3);
  using stack = new DisposableStack();
  const clients = members.clients(stack);
  const names = Array.from({ length: 9 }, (_, i) => `t_spread${i}`);
  for (const name of names) {
    await until(name, async () => {
      await clients.databases.createDatabase({ name, ifNotExists: true });
      return true;
    });
  }
  await until("an even spread", async () => {
    const { groups } = await clients.databases.status({});
    const led = new Map<string, number>();
    for (const { database, leader } of groups) {
      if (names.includes(database)) led.set(String(leader), (led.get(String(leader)) ?? 0) + 1);
    }
    return led.size === 3 && !led.has("0") && [...led.values()].every((count) => count >= 2 && count <= 4);
  });
});

/** Runs a program; what it wrote when it failed. */
async function failureOf(program: string, ...args: string[]): Promise<string | undefined> {
  const { code, stderr } = await new Deno.Command(program, { args }).output();
  return code === 0 ? undefined : new TextDecoder().decode(stderr).trim();
}

/** Why this host cannot mount a small disk; undefined when it can. */
async function noMount(): Promise<string | undefined> {
  const dir = await Deno.makeTempDir();
  const failure = await failureOf("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", dir);
  if (failure === undefined) await failureOf("umount", dir);
  await Deno.remove(dir);
  return failure === undefined ? undefined : `a small disk cannot be mounted: ${failure.split("\n")[0]}`;
}

testUnless(
  "a member whose disk is full ends, the others go on, and it comes back with everything",
  await noMount(),
  async () => {
    const small = await Deno.makeTempDir({ prefix: "uc-small-" });
    assert.equal(await failureOf("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", small), undefined);
    try {
      await using members = await startMembers(3, { stateDirs: { 3: small } });
      using stack = new DisposableStack();
      const clients = members.clients(stack);
      await found(clients);
      const load = new Load(clients, 4);
      await load.more(50);
      {
        using filler = await Deno.open(`${small}/filler`, { write: true, create: true });
        const block = new Uint8Array(64 * 1024);
        for (;;) {
          try {
            await filler.write(block);
          } catch {
            break;
          }
        }
      }
      // It writes until there is no room for a record of its log.
      const ended = members.process(3).ended;
      const big = { database, bucket: "big", key: "k", value: new Uint8Array(256 * 1024) };
      let over = false;
      void ended.then(() => over = true);
      await until("the full member to end", async () => {
        await clients.kv.put(big).catch(() => {});
        return over;
      });
      await load.more(100);
      await Deno.remove(`${small}/filler`);
      await members.start(3);
      await load.more(50);
      await load.stop();
      await judge(members, clients, load);
    } finally {
      await failureOf("umount", "-l", small);
      await Deno.remove(small);
    }
  },
);

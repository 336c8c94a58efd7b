import assert from "node:assert/strict";
import { BackupService, DatabaseService, type GroupStatus, SqlService } from "@ultracloud/proto/flaredb/v1";
import { createRpcClient, toFault } from "@ultracloud/rpc";
import { openDatabase } from "@ultracloud/sqlite";
import { makeMembers, type Replica, startReplica, until } from "./_replicas.ts";

/** Three replicas in this process, of which any may be stopped and started, or have its files changed by hand. */
class Trio implements AsyncDisposable {
  readonly dir = Deno.makeTempDirSync();
  readonly members = makeMembers(3);
  readonly urls = this.members.map((member) => member.clientUrl);
  readonly #replicas = new Map<number, Replica>();
  readonly #clients = new DisposableStack();
  readonly databases = this.databasesAt(...this.members.map(({ id }) => id));
  readonly sql = this.sqlAt(...this.members.map(({ id }) => id));

  async start(...ids: readonly number[]): Promise<void> {
    await Promise.all(ids.map(async (memberId) => {
      const { members } = this;
      this.#replicas.set(memberId, await startReplica({ dir: `${this.dir}/${memberId}`, memberId, members }));
    }));
  }
  async stop(id: number): Promise<void> {
    const replica = this.#replicas.get(id);
    this.#replicas.delete(id);
    await replica?.[Symbol.asyncDispose]();
  }

  #at(ids: readonly number[]) {
    const endpoints = ids.map((id) => this.urls[id - 1]!);
    return {
      endpoints,
      authorization: () => "Bearer test",
      timeoutMs: 20_000,
      ...ids.length > 1 ? {} : { retries: 0 },
    };
  }
  databasesAt(...ids: readonly number[]) {
    return this.#clients.use(createRpcClient(DatabaseService, this.#at(ids)));
  }
  sqlAt(...ids: readonly number[]) {
    return this.#clients.use(createRpcClient(SqlService, this.#at(ids)));
  }

  /** A database with rows whose values only replicas that work alike have alike. */
  async create(name: string, replicas: readonly number[]): Promise<void> {
    const request = { name, ifNotExists: true, replicas: replicas.map(BigInt) };
    await this.works("the database", () => this.databases.createDatabase(request));
    const table = "CREATE TABLE IF NOT EXISTS t(a DEFAULT (random()), b DEFAULT CURRENT_TIMESTAMP)";
    await this.works("a table", () => this.run(name, table));
    await this.works("rows", () => this.run(name, "INSERT INTO t DEFAULT VALUES"));
  }
  run(database: string, text: string) {
    return this.sql.execute({ database, statement: { sql: text } });
  }
  query(id: number, database: string) {
    return this.sqlAt(id).query({ database, statement: { sql: "SELECT a FROM t" } });
  }
  /** What the member itself says of its replica. */
  async group(id: number, database: string): Promise<GroupStatus> {
    return (await this.databasesAt(id).status({})).groups.find((group) => group.database === database)!;
  }
  async leader(database: string): Promise<number> {
    let leader = 0n;
    await until("one leader", async () => {
      const all = await Promise.all([...this.#replicas.keys()].map((id) => this.group(id, database)));
      leader = all[0]!.leader;
      return leader !== 0n && all.every((group) => group.leader === leader);
    });
    return Number(leader);
  }
  /** A check that is asked of this member, once that has a leader to ask. */
  async check(id: number, name: string) {
    let checked: Awaited<ReturnType<typeof this.databases.checkReplicas>>;
    await this.works("a check", async () => checked = await this.databasesAt(id).checkReplicas({ name }));
    return checked!;
  }
  /** Somebody's hand, or a broken disk. */
  async damage(id: number, database: string): Promise<void> {
    const dir = `${this.dir}/${id}/databases`;
    const file = [...Deno.readDirSync(dir)].find((each) =>
      each.name.startsWith(database) && each.name.endsWith(".db")
    )!;
    using backups = createRpcClient(BackupService, this.#at([id]));
    await this.works("the damage", async () => {
      // The replica's own transaction ends when the database is copied; until then nobody else can write.
      for await (const _ of backups.dump({ database }));
      using db = openDatabase(`${dir}/${file.name}`);
      db.run("UPDATE t SET a = ?", id);
    });
  }
  /** Until it does not fail any more: leaders may just be changing. */
  async works(what: string, work: () => Promise<unknown>): Promise<void> {
    let failed: unknown;
    const settled = () =>
      work().then(() => true, (error) => {
        failed = error;
        return false;
      });
    await until(what, settled).catch((error) => {
      throw new Error(`${error.message}: ${failed}`);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#clients.dispose();
    for (const id of [...this.#replicas.keys()]) await this.stop(id);
    await Deno.remove(this.dir, { recursive: true });
  }
}

const code = (wanted: string) => (error: unknown) => {
  assert.equal(toFault(error).code, wanted);
  return true;
};

Deno.test("whoever is asked, the replica that differs from most is found, leader or not, and no other", async () => {
  await using trio = new Trio();
  await trio.start(1, 2, 3);
  // Asked of: the one that differs, its leader, the third; a leader that differs, asked of itself and of another.
  const cases = [
    { name: "t_self", damaged: "follower", asked: "damaged" },
    { name: "t_leader", damaged: "follower", asked: "leader" },
    { name: "t_other", damaged: "follower", asked: "other" },
    { name: "t_led", damaged: "leader", asked: "damaged" },
    { name: "t_led_other", damaged: "leader", asked: "other" },
  ];
  for (const { name, damaged, asked } of cases) {
    await trio.create(name, [1, 2, 3]);
    const before = await trio.check(1, name);
    assert.deepEqual(before.replicas.map((each) => [each.sha256, each.differs]), Array(3).fill([before.sha256, false]));

    const leader = await trio.leader(name);
    const victim = damaged === "leader" ? leader : leader % 3 + 1;
    const other = [1, 2, 3].find((id) => id !== leader && id !== victim)!;
    await trio.damage(victim, name);
    const { sha256, index, replicas } = await trio.check(
      asked === "damaged" ? victim : asked === "leader" ? leader : other,
      name,
    );
    assert.deepEqual(
      replicas.map(({ member, differs }) => [Number(member), differs]),
      [1, 2, 3].map((id) => [id, id === victim]),
    );
    assert.deepEqual(replicas.filter((each) => each.sha256 === sha256).length, 2);
    for (const id of [1, 2, 3]) {
      await until(`${id} to know`, async () => {
        const group = await trio.group(id, name);
        return group.checkedIndex >= index && group.diverged === (id === victim);
      });
    }
    await assert.rejects(trio.query(victim, name), code("database_diverged"));
    await until("another leader", async () => await trio.leader(name) !== victim);
    await until("a write", () => trio.run(name, "INSERT INTO t DEFAULT VALUES").then(() => true, () => false));
    for (const id of [1, 2, 3]) assert.equal((await trio.group(id, name)).diverged, id === victim);
  }
});

Deno.test("of two replicas that differ nobody is accused, and the caller is told who has what", async () => {
  await using trio = new Trio();
  await trio.start(1, 2, 3);
  await trio.create("t_two", [1, 2]);
  const { sha256 } = await trio.check(1, "t_two");
  await trio.damage(2, "t_two");
  for (const id of [1, 2]) {
    await assert.rejects(trio.databasesAt(id).checkReplicas({ name: "t_two" }), (error) => {
      const { code, message } = toFault(error);
      assert.equal(code, "replicas_undecided");
      assert.match(message, new RegExp(`1 has ${sha256.slice(0, 16)}, 2 has [0-9a-f]{16}$`));
      return true;
    });
  }
  for (const id of [1, 2]) {
    assert.equal((await trio.group(id, "t_two")).diverged, false);
    await trio.query(id, "t_two");
  }
});

Deno.test("a replica that differs does so after a restart, until it is placed anew; one that is down is named", async () => {
  await using trio = new Trio();
  await trio.start(1, 2, 3);
  const name = "t_again";
  await trio.create(name, [1, 2, 3]);
  const victim = await trio.leader(name) % 3 + 1;
  const [sound, other] = [1, 2, 3].filter((id) => id !== victim) as [number, number];
  await trio.damage(victim, name);
  await trio.check(sound, name);
  await until("the victim to know", async () => (await trio.group(victim, name)).diverged);

  await trio.stop(victim);
  const { sha256, replicas } = await trio.check(sound, name);
  const said = replicas.map((each) => [Number(each.member), each.sha256, each.differs]);
  assert.deepEqual(said, [1, 2, 3].map((id) => [id, id === victim ? "" : sha256, false]));
  await trio.start(victim);
  assert.equal((await trio.group(victim, name)).diverged, true);
  await assert.rejects(trio.query(victim, name), code("database_diverged"));

  const place = async (...ids: number[]) => {
    const databases = trio.databasesAt(sound);
    const request = { name, replicas: ids.map(BigInt) };
    await trio.works("placing", () => databases.placeDatabase(request));
    await until("the placement", async () => (await databases.getDatabase({ name })).placed);
  };
  await place(sound, other);
  await place(sound, other, victim);
  const healed = await trio.check(victim, name);
  assert.deepEqual(healed.replicas.map((each) => each.sha256), Array(3).fill(healed.sha256));
  assert.equal((await trio.group(victim, name)).diverged, false);
  await trio.query(victim, name);
});

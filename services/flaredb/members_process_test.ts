import assert from "node:assert/strict";
import { testUnless } from "@ultracloud/testing";
import { database, found, judge, leaderOf, Load, until } from "./test_load.ts";
import { startMembers } from "./test_members.ts";

Deno.test("kill -9, a stopped process and moves under load lose no answered write and double none", async () => {
  await using members = await startMembers(4);
  using stack = new DisposableStack();
  const clients = members.clients(stack);
  await found(clients);
  const load = new Load(clients, 6);
  await load.more(100);

  const killed = await leaderOf(members);
  await members.process(killed).kill();
  await load.more(100);
  await members.start(killed);

  // A process that does not run and does not die: to the others, a partition.
  const stopped = await leaderOf(members);
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
  const leader = await leaderOf(members);
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

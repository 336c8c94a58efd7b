import assert from "node:assert/strict";
import { type Disk, fault, seededRng, systemClock, uniform } from "@ultracloud/base";
import { configurationOf, type SnapshotHeader } from "@ultracloud/raft";
import { SimDisk } from "@ultracloud/testing";
import { describeFile, type SnapshotFile, SnapshotNames, writeWhole } from "./snapshot_file.ts";
import { type IncomingSnapshot, SnapshotInbox } from "./snapshot_inbox.ts";
import { sendSnapshotFile, type SnapshotSenderDeps } from "./snapshot_sender.ts";

const MIB = 2 ** 20;
const names = new SnapshotNames("/in", 7);

function content(bytes: number, seed = 1): Uint8Array {
  return seededRng(seed).fill(new Uint8Array(bytes));
}

const header = (term = 3, index = 40): SnapshotHeader => ({
  from: 1,
  to: 2,
  term,
  meta: { index, term: 2, configuration: configurationOf([1, 2]) },
});

/** A snapshot of `bytes` on the sender's disk. */
async function prepared(bytes: number, seed = 1): Promise<{ disk: Disk; data: SnapshotFile }> {
  const disk = new SimDisk({ rng: seededRng(1) });
  writeWhole(disk, "/out/state", content(bytes, seed));
  return { disk, data: await describeFile(disk, "/out/state") };
}

interface Receiver {
  readonly disk: SimDisk;
  readonly inbox: SnapshotInbox;
  readonly installed: { header: SnapshotHeader; content: Uint8Array }[];
  /** Bytes that came over the wire. */
  carried: number;
  /** What happens to the next call. */
  fate: (offset: number) => "ok" | "lost" | "unanswered";
  readonly client: SnapshotSenderDeps["client"];
}

function receiver(install = true): Receiver {
  const disk = new SimDisk({ rng: seededRng(2) });
  const self: Receiver = {
    disk,
    installed: [],
    carried: 0,
    fate: () => "ok",
    inbox: new SnapshotInbox(names, {
      disk,
      install: (header, { path }) => {
        const file = disk.open(path, { create: false });
        const content = new Uint8Array(file.size());
        file.readAt(content, 0);
        if (install) self.installed.push({ header, content });
        return Promise.resolve(install);
      },
    }),
    client: {
      installSnapshot: async (request) => {
        const { offset, chunk, header: wire } = request as { offset: bigint; chunk: Uint8Array; header: never };
        const fate = self.fate(Number(offset));
        if (fate === "lost") throw fault("unavailable", "connection_lost", "Cannot reach the peer");
        assert.ok(chunk.length <= MIB);
        self.carried += chunk.length;
        const answer = await self.inbox.take(incoming(wire), Number(offset), chunk.slice());
        if (fate === "unanswered") throw fault("deadline_exceeded", "deadline_exceeded", "Cannot wait longer");
        return { ...answer, offset: BigInt(answer.offset) } as never;
      },
    },
  };
  return self;
}

function incoming(wire: { term: bigint; index: bigint; bytesTotal: bigint; sha256: Uint8Array }): IncomingSnapshot {
  return {
    header: header(Number(wire.term), Number(wire.index)),
    bytes: Number(wire.bytesTotal),
    sha256: wire.sha256.toHex(),
  };
}

function send(
  from: { disk: Disk; data: SnapshotFile },
  to: Receiver,
  signal = new AbortController().signal,
  at = header(),
): Promise<boolean> {
  const clock = { ...systemClock, sleep: () => Promise.resolve() };
  return sendSnapshotFile(
    { clusterId: "test", group: 7, header: at, data: from.data },
    { client: to.client, disk: from.disk, clock, rng: seededRng(3) },
    signal,
  );
}

Deno.test("a snapshot arrives whole though calls and answers are lost, and no piece is taken twice", async () => {
  const bytes = 5 * MIB + 17;
  const from = await prepared(bytes), to = receiver();
  const rng = seededRng(5);
  const fates = { ok: 0, lost: 0, unanswered: 0 };
  to.fate = () => {
    const fate = (["ok", "ok", "ok", "lost", "unanswered"] as const)[uniform(rng, 5)]!;
    fates[fate]++;
    return fate;
  };
  assert.equal(await send(from, to), true);
  assert.deepEqual(to.installed.map(({ content }) => content), [content(bytes)]);
  assert.deepEqual(to.installed[0]!.header, header());
  assert.equal(to.carried, bytes);
  assert.ok(fates.lost > 0 && fates.unanswered > 0, JSON.stringify(fates));
  assert.deepEqual(to.disk.list("/in"), []);
});

Deno.test("a transfer that was given up goes on where it was", async () => {
  const from = await prepared(4 * MIB), to = receiver();
  const stop = new AbortController();
  to.fate = (offset) => {
    if (offset >= 3 * MIB) stop.abort();
    return stop.signal.aborted ? "lost" : "ok";
  };
  assert.equal(await send(from, to, stop.signal), false);
  assert.equal(to.carried, 3 * MIB);
  to.fate = () => "ok";
  assert.equal(await send(from, to), true);
  assert.equal(to.carried, 4 * MIB);
  assert.deepEqual(to.installed[0]!.content, content(4 * MIB));
});

Deno.test("a sender that cannot get through gives up after a bounded number of tries", async () => {
  const from = await prepared(MIB), to = receiver();
  let calls = 0;
  to.fate = () => (calls++, "lost");
  await assert.rejects(send(from, to), { code: "connection_lost" });
  assert.ok(calls > 1 && calls < 20, `${calls} calls`);
});

Deno.test("an empty state is a snapshot too", async () => {
  const from = await prepared(0), to = receiver();
  assert.equal(await send(from, to), true);
  assert.deepEqual(to.installed.map(({ content }) => content.length), [0]);
});

Deno.test("a snapshot of a later leader takes the place of what is arriving, one of an earlier leader does not", async () => {
  const old = await prepared(2 * MIB), next = await prepared(2 * MIB, 9), to = receiver();
  const stop = new AbortController();
  to.fate = (offset) => {
    if (offset >= MIB) stop.abort();
    return stop.signal.aborted ? "lost" : "ok";
  };
  await send(old, to, stop.signal);
  to.fate = () => "ok";
  const { sha256 } = next.data;
  await to.inbox.take({ header: header(4, 50), bytes: 2 * MIB, sha256 }, 0, content(MIB, 9));
  assert.equal(to.disk.list("/in").length, 1);
  await assert.rejects(send(old, to), { kind: "failed_precondition", code: "snapshot_stale" });
  assert.equal(await send(next, to, undefined, header(4, 50)), true);
  assert.deepEqual(to.installed.map(({ header }) => header.meta.index), [50]);
});

Deno.test("a snapshot that was damaged on the way is refused as data loss and leaves nothing", async () => {
  const from = await prepared(MIB + 1), to = receiver();
  await to.inbox.take({ header: header(), bytes: MIB + 1, sha256: from.data.sha256 }, 0, new Uint8Array(MIB));
  await assert.rejects(send(from, to), { kind: "data_loss", code: "snapshot_damaged" });
  assert.deepEqual([to.installed, to.disk.list("/in")], [[], []]);
  // The next try begins afresh.
  assert.equal(await send(from, to), true);
});

Deno.test("a receiver whose disk is full says so, and takes the snapshot when there is room", async () => {
  const from = await prepared(3 * MIB), to = receiver();
  to.disk.capacityBytes = 2 * MIB;
  await assert.rejects(send(from, to), { kind: "resource_exhausted", code: "disk_full" });
  assert.deepEqual(to.disk.list("/in"), []);
  to.disk.capacityBytes = Infinity;
  assert.equal(await send(from, to), true);
});

Deno.test("a snapshot that the replica does not want is refused and removed", async () => {
  const from = await prepared(MIB), to = receiver(false);
  await assert.rejects(send(from, to), { kind: "failed_precondition", code: "snapshot_refused" });
  assert.deepEqual(to.disk.list("/in"), []);
});

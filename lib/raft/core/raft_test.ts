import assert from "node:assert/strict";
import { bytes, elect, founded, type MemoryView, settle, threeVoters } from "./_test_support.ts";
import { message } from "./message.ts";
import type { RaftCore } from "./raft.ts";
import type { Message } from "./types.ts";

const granted = (kind: "pre_vote" | "vote", m: Message) => message(`${kind}_response`, 2, 1, m.term);

function leaderOfThree(options = {}): { core: RaftCore; view: MemoryView } {
  const { core, view } = founded(1, [1, 2, 3], options);
  elect(core, view, granted);
  assert.equal(core.role, "leader");
  return { core, view };
}

Deno.test("A single voter commits an entry only once its own write is durable", () => {
  const { core, view } = founded(1, [1]);
  core.campaign();
  settle(core, view);
  assert.equal(core.role, "leader");
  core.propose(bytes("x"));
  const ready = core.ready()!;
  assert.equal(ready.append!.entries.length, 1);
  assert.equal(ready.committed.length, 0);
  assert.equal(core.ready(), undefined);
  view.append(ready.append!.entries);
  core.advanceAppend(ready.append!.seq);
  assert.deepEqual(core.ready()!.committed.map(({ data }) => data), [bytes("x")]);
});

Deno.test("A vote leaves only after it is durable, and only one per term", () => {
  const { core, view } = founded(2, [1, 2, 3]);
  core.step(message("vote", 1, 2, 2, 1, 1));
  const ready = core.ready()!;
  assert.deepEqual(ready.append!.hardState, { term: 2, vote: 1, commit: 1 });
  assert.equal(ready.messages.length, 0);
  core.advanceAppend(ready.append!.seq);
  assert.equal(core.ready()!.messages[0]!.reject, false);
  core.step(message("vote", 3, 2, 2, 1, 1));
  assert.equal(settle(core, view).messages[0]!.reject, true);
});

Deno.test("A candidate asks for votes only once it will remember that it did", () => {
  const { core, view } = founded(1, [1, 2, 3]);
  core.campaign();
  const ask = settle(core, view).messages.find(({ kind }) => kind === "pre_vote")!;
  core.step(granted("pre_vote", ask));
  const ready = core.ready()!;
  assert.deepEqual(ready.messages, []);
  assert.equal(ready.append!.hardState!.vote, 1);
  core.advanceAppend(ready.append!.seq);
  assert.deepEqual(core.ready()!.messages.map(({ kind }) => kind), ["vote", "vote"]);
});

Deno.test("A replica that hears from its leader does not help to depose it, unless the leader wants to go", () => {
  const { core, view } = founded(2, [1, 2, 3]);
  core.step(message("heartbeat", 1, 2, 1));
  settle(core, view);
  core.step(message("vote", 3, 2, 5, 9, 9));
  assert.equal(core.term, 1);
  core.step(message("vote", 3, 2, 5, 9, 9, 0, [], false, 0, 0, 0, true));
  assert.equal(core.term, 5);
});

Deno.test("A leader sends while it writes, and counts itself only when the write is durable", () => {
  const { core, view } = leaderOfThree();
  settle(core, view);
  core.step(message("append_response", 2, 1, core.term, 0, core.lastIndex));
  settle(core, view);
  const { index } = core.propose(bytes("x")) as { index: number };
  const ready = core.ready()!;
  assert.ok(ready.messages.some((m) => m.kind === "append" && m.entries.some((entry) => entry.index === index)));
  core.step(message("append_response", 2, 1, core.term, 0, index));
  assert.equal(core.commitIndex, index - 1);
  view.append(ready.append!.entries);
  core.advanceAppend(ready.append!.seq);
  assert.equal(core.commitIndex, index);
});

Deno.test("A new leader does not commit older entries by counting, nor serve reads, before an entry of its own", () => {
  const { core, view } = founded(1, [1, 2, 3]);
  core.step(message("append", 2, 1, 2, 1, 1, 1, [{ term: 2, index: 2, kind: "normal", data: bytes("old") }]));
  settle(core, view);
  elect(core, view, granted);
  settle(core, view);
  core.step(message("append_response", 2, 1, core.term, 0, 2));
  core.readIndex(7);
  core.step(message("heartbeat_response", 2, 1, core.term));
  assert.equal(core.commitIndex, 1);
  assert.deepEqual(settle(core, view).readies.flatMap(({ reads }) => reads), []);
  core.step(message("append_response", 2, 1, core.term, 0, 3));
  assert.equal(core.commitIndex, 3);
  const heartbeat = settle(core, view).messages.find(({ kind, to }) => kind === "heartbeat" && to === 2)!;
  core.step(message("heartbeat_response", 2, 1, core.term, 0, 0, 0, [], false, 0, 0, heartbeat.context));
  assert.deepEqual(core.ready()!.reads, [{ context: 7, index: 3 }]);
});

Deno.test("A late answer to an earlier read does not confirm a later one", () => {
  const { core, view } = leaderOfThree();
  settle(core, view);
  core.step(message("append_response", 2, 1, core.term, 0, core.lastIndex));
  settle(core, view);
  const ask = (context: number) => {
    core.readIndex(context);
    return settle(core, view).messages.find(({ kind }) => kind === "heartbeat")!.context;
  };
  const first = ask(1), second = ask(2);
  assert.ok(second > first);
  const answer = (context: number) =>
    core.step(message("heartbeat_response", 2, 1, core.term, 0, 0, 0, [], false, 0, 0, context));
  answer(first);
  assert.deepEqual(settle(core, view).readies.flatMap(({ reads }) => reads.map((read) => read.context)), [1]);
  answer(second);
  assert.deepEqual(settle(core, view).readies.flatMap(({ reads }) => reads.map((read) => read.context)), [2]);
});

Deno.test("A completion of an overwritten write does not make what replaced it durable", () => {
  const { core } = founded(2, [1, 2, 3]);
  core.step(message("append", 1, 2, 2, 1, 1, 1, [{ term: 2, index: 2, kind: "normal", data: bytes("a") }]));
  const first = core.ready()!.append!;
  core.step(message("append", 3, 2, 3, 1, 1, 1, [{ term: 3, index: 2, kind: "normal", data: bytes("b") }]));
  const second = core.ready()!.append!;
  core.advanceAppend(first.seq);
  assert.equal(core.durableIndex, 1);
  core.advanceAppend(second.seq);
  assert.equal(core.durableIndex, 2);
});

Deno.test("The hard state of a write never commits entries of that write", () => {
  const { core } = founded(2, [1, 2, 3]);
  core.step(message("append", 1, 2, 2, 1, 1, 2, [{ term: 2, index: 2, kind: "normal", data: bytes("a") }]));
  assert.equal(core.commitIndex, 2);
  assert.equal(core.ready()!.append!.hardState!.commit, 1);
});

Deno.test("A follower whose log ends early is caught up by one refusal", () => {
  const { core, view } = founded(1, [1, 2, 3]);
  const entries = Array.from({ length: 20 }, (_, i) => (
    { term: 2, index: 2 + i, kind: "normal" as const, data: bytes("x") }
  ));
  core.step(message("append", 2, 1, 2, 1, 1, 1, entries));
  settle(core, view);
  elect(core, view, granted);
  settle(core, view);
  core.step(message("append_response", 3, 1, core.term, 0, 21, 0, [], true, 1, 1));
  const append = settle(core, view).messages.find(({ kind, to }) => kind === "append" && to === 3)!;
  assert.equal(append.index, 1);
});

Deno.test("A leader keeps no more appends on their way than the window allows", () => {
  const { core, view } = leaderOfThree({ inflightMessagesMax: 2, messageBytesMax: 1 });
  settle(core, view);
  core.step(message("append_response", 2, 1, core.term, 0, core.lastIndex));
  settle(core, view);
  for (let i = 0; i < 5; i++) core.propose(bytes("xx"));
  const sent = () => settle(core, view).messages.filter((m) => m.to === 2 && m.entries.length > 0).length;
  assert.equal(sent(), 2);
  core.step(message("append_response", 2, 1, core.term, 0, core.lastIndex - 4));
  assert.equal(sent(), 1);
});

Deno.test("A peer behind the cut of the log is sent a snapshot, and is tried again when it fails", () => {
  const { core, view } = leaderOfThree();
  settle(core, view);
  core.step(message("append_response", 2, 1, core.term, 0, core.lastIndex));
  for (let i = 0; i < 3; i++) core.propose(bytes("x"));
  settle(core, view);
  core.step(message("append_response", 2, 1, core.term, 0, core.lastIndex));
  settle(core, view);
  view.base = { ...view.base, configuration: threeVoters };
  view.cut(core.appliedIndex);
  core.compacted(core.appliedIndex);
  const due = () => {
    core.step(message("heartbeat_response", 3, 1, core.term));
    return settle(core, view).readies.flatMap(({ snapshotsDue }) => snapshotsDue);
  };
  core.step(message("append_response", 3, 1, core.term, 0, core.lastIndex, 0, [], true, 0, 0));
  assert.deepEqual(due(), [3]);
  assert.deepEqual(due(), []);
  core.step(message("snapshot_status", 3, 1, core.term, 0, 0, 0, [], true));
  assert.deepEqual(due(), [3]);
  core.step(message("snapshot_status", 3, 1, core.term, 0, core.lastIndex));
  core.step(message("append_response", 3, 1, core.term, 0, core.lastIndex));
  assert.equal(core.peers().find(({ id }) => id === 3)!.state, "replicate");
});

Deno.test("A snapshot replaces a log that lacks its point, and is waved through when the log has it", () => {
  const { core, view } = founded(3, [1, 2, 3]);
  settle(core, view);
  const meta = { index: 9, term: 2, configuration: threeVoters };
  assert.equal(core.offerSnapshot(1, 2, meta), "install");
  const { messages } = settle(core, view);
  assert.deepEqual([core.commitIndex, core.appliedIndex, core.lastIndex, core.firstIndex], [9, 9, 9, 10]);
  assert.ok(messages.some(({ kind, index, reject }) => kind === "append_response" && index === 9 && !reject));
  assert.equal(core.offerSnapshot(1, 2, meta), "held");
  assert.equal(core.offerSnapshot(1, 1, meta), "refused");
});

Deno.test("Leadership passes to a caught-up voter at once, and is kept when that one stays silent", () => {
  const { core, view } = leaderOfThree();
  settle(core, view);
  core.step(message("append_response", 2, 1, core.term, 0, core.lastIndex));
  settle(core, view);
  assert.equal(core.transferLeader(2), true);
  assert.ok(settle(core, view).messages.some(({ kind, to }) => kind === "timeout_now" && to === 2));
  assert.equal(core.propose(bytes("x")), "transferring");
  core.step(message("heartbeat_response", 2, 1, core.term));
  for (let i = 0; i < 10; i++) core.tick();
  assert.notEqual(core.propose(bytes("x")), "transferring");
});

Deno.test("A hand-over asked for again and again to a silent voter is given up, and the quorum still looked for", () => {
  const { core, view } = leaderOfThree();
  settle(core, view);
  core.step(message("append_response", 2, 1, core.term, 0, core.lastIndex));
  settle(core, view);
  for (let i = 0; i < 30; i++) {
    // Replica 3 answers, replica 2 does not.
    core.step(message("heartbeat_response", 3, 1, core.term));
    core.transferLeader(2);
    core.tick();
    settle(core, view);
  }
  assert.equal(core.role, "leader");
  assert.equal(core.peers().find(({ id }) => id === 2)!.recentlyActive, false, "who balances leaders learns of it");
});

Deno.test("A leader that hears from no quorum steps down", () => {
  const { core, view } = leaderOfThree();
  settle(core, view);
  for (let i = 0; i < 20; i++) core.tick();
  assert.equal(core.role, "follower");
});

Deno.test("Proposals are refused while too much waits for commit, and taken again afterwards", () => {
  const { core, view } = leaderOfThree({ uncommittedBytesMax: 10 });
  settle(core, view);
  core.step(message("append_response", 2, 1, core.term, 0, core.lastIndex));
  settle(core, view);
  assert.equal(typeof core.propose(bytes("0123456789")), "object");
  assert.equal(core.propose(bytes("x")), "uncommitted_full");
  settle(core, view);
  core.step(message("append_response", 2, 1, core.term, 0, core.lastIndex));
  settle(core, view);
  assert.equal(typeof core.propose(bytes("x")), "object");
});

Deno.test("A replica that starts with leases on votes for nobody within an election timeout, but for a transfer", () => {
  const ask = (ticks: number, force: boolean) => {
    const { core, view } = founded(2, [1, 2, 3], { waitBeforeVoting: true });
    for (let i = 0; i < ticks; i++) core.tick();
    core.step(message("vote", 1, 2, 2, 1, 1, 0, [], false, 0, 0, 0, force));
    return settle(core, view).messages.some(({ kind, reject }) => kind === "vote_response" && !reject);
  };
  assert.deepEqual([ask(9, false), ask(9, true), ask(10, false)], [false, true, true]);
});

Deno.test("A learner or follower asks the leader for a read point, which a quorum of voters confirms", () => {
  const { core, view } = leaderOfThree();
  settle(core, view);
  core.step(message("append_response", 2, 1, core.term, 0, core.lastIndex));
  settle(core, view);
  const beat = () => settle(core, view).messages.filter(({ kind }) => kind === "heartbeat").map((m) => m.context);
  core.step(message("read_index", 9, 1, core.term, 0, 0, 0, [], false, 0, 0, 77));
  const [context] = beat();
  // The learner's own answer is no voter's.
  core.step(message("heartbeat_response", 9, 1, core.term, 0, 0, 0, [], false, 0, 0, context));
  assert.deepEqual(settle(core, view).messages.filter(({ kind }) => kind === "read_index_response"), []);
  core.step(message("heartbeat_response", 2, 1, core.term, 0, 0, 0, [], false, 0, 0, context));
  const [answer] = settle(core, view).messages.filter(({ kind }) => kind === "read_index_response");
  assert.deepEqual([answer!.to, answer!.context, answer!.index], [9, 77, core.commitIndex]);
});

Deno.test("Contact is with a leader, or on a leader with a quorum: neither a start nor standing for election is any", () => {
  const { core, view } = founded(2, [1, 2, 3]);
  assert.equal(core.contactTicks, Infinity);
  core.step(message("heartbeat", 1, 2, 1));
  settle(core, view);
  assert.equal(core.contactTicks, 0);
  for (let tick = 1; tick <= 200; tick++) {
    core.tick();
    settle(core, view);
    assert.equal(core.contactTicks, tick);
  }
  assert.notEqual(core.role, "follower");
  const { core: leader } = leaderOfThree();
  assert.equal(leader.contactTicks, 0);
});

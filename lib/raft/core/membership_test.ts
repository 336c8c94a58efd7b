import assert from "node:assert/strict";
import { TestCluster } from "./_cluster_test_support.ts";
import { bytes, settle } from "./_test_support.ts";
import type { ChangeStep } from "./change.ts";
import { configurationOf, encodeConfiguration } from "./configuration.ts";
import { message } from "./message.ts";
import type { NodeId } from "./types.ts";

const addVoter = (id: NodeId): ChangeStep => ({ type: "add_voter", id });
const addLearner = (id: NodeId): ChangeStep => ({ type: "add_learner", id });
const remove = (id: NodeId): ChangeStep => ({ type: "remove", id });

Deno.test("A configuration is in force once its entry has committed, on every member", () => {
  const cluster = new TestCluster([1, 2, 3]);
  const leader = cluster.elect(1);
  cluster.join(4);
  const logged = leader.proposeChange({ steps: [addLearner(4)] });
  assert.ok("index" in logged);
  assert.deepEqual(leader.configuration.learners, []);
  cluster.run();
  for (const id of [1, 2, 3, 4]) {
    assert.deepEqual(cluster.get(id).configuration, { ...configurationOf([1, 2, 3]), learners: [4] });
    assert.equal(cluster.get(id).configurationIndex, logged.index);
  }
});

Deno.test("A change is refused away from the leader, before a commit in the own term, and while another is pending", () => {
  const cluster = new TestCluster([1, 2, 3]);
  assert.deepEqual(cluster.get(2).proposeChange({ steps: [remove(3)] }), { refused: "not_leader" });
  // Elected by 2, which then answers no more: nothing commits in the new term.
  const leader = cluster.get(1);
  leader.campaign();
  for (const kind of ["pre_vote", "vote"] as const) {
    const { messages } = settle(leader, cluster.views.get(1)!);
    const ask = messages.find((m) => m.kind === kind)!;
    leader.step(message(`${kind}_response`, 2, 1, ask.term));
  }
  assert.equal(leader.role, "leader");
  assert.deepEqual(leader.proposeChange({ steps: [addLearner(4)] }), { refused: "transferring" });
  cluster.run();
  leader.step(message("append_response", 2, 1, leader.term, 0, leader.lastIndex));
  assert.ok("index" in leader.proposeChange({ steps: [addLearner(4)] }));
  assert.deepEqual(leader.proposeChange({ steps: [addLearner(5)] }), { refused: "change_pending" });
});

Deno.test("A broken step is a fault and leaves no trace", () => {
  const cluster = new TestCluster([1, 2, 3]);
  const leader = cluster.elect(1);
  const before = leader.lastIndex;
  assert.throws(() => leader.proposeChange({ steps: [remove(1), remove(2), remove(3)] }), { code: "no_voters_left" });
  assert.throws(() => leader.proposeChange({ leave: true }), { code: "not_joint" });
  assert.equal(leader.lastIndex, before);
});

Deno.test("A learner gets every entry, is not counted and does not stand", () => {
  const cluster = new TestCluster([1, 2, 3]);
  cluster.elect(1);
  cluster.join(4);
  cluster.change({ steps: [addLearner(4)] });
  cluster.cut.add(2).add(3);
  cluster.leader!.propose(bytes("x"));
  cluster.run();
  const { commitIndex, lastIndex } = cluster.get(1);
  assert.equal(cluster.get(4).lastIndex, lastIndex);
  assert.equal(commitIndex, lastIndex - 1);
  cluster.get(4).campaign();
  for (let i = 0; i < 50; i++) cluster.get(4).tick();
  cluster.get(4).step(message("timeout_now", 1, 4, cluster.get(4).term));
  assert.equal(cluster.get(4).role, "follower");
  assert.equal(cluster.get(1).transferLeader(4), false);
});

Deno.test("A learner votes when asked: it may have been promoted in a log it has not heard committed", () => {
  const cluster = new TestCluster([1, 2, 3]);
  cluster.elect(1);
  cluster.join(4);
  cluster.change({ steps: [addLearner(4)] });
  cluster.cut.add(1);
  for (let i = 0; i < 20; i++) cluster.get(4).tick();
  cluster.run();
  const { term, lastIndex } = cluster.get(4);
  cluster.get(4).step(message("vote", 2, 4, term + 1, term, lastIndex));
  const answer = settle(cluster.get(4), cluster.views.get(4)!).messages.find(({ kind }) => kind === "vote_response")!;
  assert.equal(answer.reject, false);
});

Deno.test("A learner that lags is not promoted, and one that has caught up is", () => {
  const cluster = new TestCluster([1, 2, 3]);
  const leader = cluster.elect(1);
  cluster.join(4);
  cluster.cut.add(4);
  cluster.change({ steps: [addLearner(4)] });
  for (let i = 0; i < 20; i++) leader.propose(bytes("x"));
  cluster.run();
  const refused = leader.proposeChange({ steps: [addVoter(4)] });
  assert.ok("refused" in refused && refused.refused === "unsafe_change");
  assert.match(refused.reason!, /learner 4 holds 0 of \d+ entries: wanted 90 % of them/);
  cluster.cut.delete(4);
  cluster.tick(3);
  cluster.change({ steps: [addVoter(4)] });
  assert.deepEqual(leader.configuration, configurationOf([1, 2, 3, 4]));
});

Deno.test("A learner that keeps up is promoted by itself when asked for, and never otherwise", () => {
  const cluster = new TestCluster([1]);
  const leader = cluster.elect(1);
  cluster.join(2);
  cluster.cut.add(2);
  cluster.change({ steps: [addLearner(2)] });
  for (let i = 0; i < 9; i++) leader.propose(bytes("x"));
  cluster.run();
  leader.promoteLearner(3);
  assert.deepEqual(leader.configuration.learners, [2]);
  cluster.cut.delete(2);
  cluster.tick(3);
  assert.deepEqual(leader.configuration.learners, [2]);
  leader.promoteLearner(3);
  cluster.run();
  assert.deepEqual(cluster.get(2).configuration, configurationOf([1, 2]));
});

Deno.test("A change that would cost the quorum is refused, one that restores it is taken", () => {
  const cluster = new TestCluster([1, 2, 3]);
  const leader = cluster.elect(1);
  cluster.cut.add(3);
  cluster.tick(30);
  assert.equal(cluster.leader?.id, 1);
  const refused = leader.proposeChange({ steps: [remove(2)] });
  assert.ok("refused" in refused && refused.refused === "unsafe_change");
  assert.match(refused.reason!, /only 1 of the 2 voters it leaves are in touch: wanted 2/);
  // Four voters need three, and two are there.
  assert.ok("refused" in leader.proposeChange({ steps: [addVoter(4)] }));
  cluster.join(4);
  cluster.change({ steps: [remove(3), addVoter(4)] });
  assert.deepEqual(cluster.get(4).configuration, configurationOf([1, 2, 4]));
});

Deno.test("A joint configuration needs both majorities, and is left by the leader itself", () => {
  const cluster = new TestCluster([1, 2, 3]);
  const leader = cluster.elect(1);
  cluster.join(4);
  cluster.join(5);
  cluster.change({ steps: [addLearner(4)] });
  cluster.change({ steps: [addLearner(5)] });
  cluster.tick(3);
  // Two of the three that are to decide from now on: the change is safe when it is asked for.
  assert.ok("index" in leader.proposeChange({ steps: [remove(2), remove(3), addVoter(4), addVoter(5)] }));
  // The present voters alone commit the entry that brings the joint configuration.
  cluster.cut.add(4).add(5);
  cluster.run();
  assert.deepEqual([leader.configuration.voters, leader.configuration.votersOutgoing], [[1, 4, 5], [1, 2, 3]]);
  const joined = leader.configurationIndex;
  cluster.tick(3);
  assert.equal(leader.commitIndex, joined, "1, 2 and 3 are no majority of 1, 4 and 5");
  assert.deepEqual(leader.proposeChange({ steps: [remove(5)] }), { refused: "change_pending" });
  cluster.cut.clear();
  cluster.tick(6);
  for (const id of [1, 4, 5]) assert.deepEqual(cluster.get(id).configuration, configurationOf([1, 4, 5]));
});

Deno.test("An explicit joint configuration stays until it is left, and demotes a voter at its end", () => {
  const cluster = new TestCluster([1, 2, 3]);
  const leader = cluster.elect(1);
  cluster.join(4);
  cluster.change({ steps: [addVoter(4), addLearner(3)], transition: "joint_explicit" });
  cluster.tick(10);
  assert.deepEqual(leader.configuration.votersOutgoing, [1, 2, 3]);
  assert.deepEqual(leader.configuration.learnersNext, [3]);
  assert.deepEqual(leader.proposeChange({ steps: [remove(3)] }), { refused: "change_pending" });
  cluster.change({ leave: true });
  assert.deepEqual(leader.configuration, { ...configurationOf([1, 2, 4]), learners: [3] });
});

Deno.test("A new leader leaves the joint configuration that its predecessor could not", () => {
  const cluster = new TestCluster([1, 2, 3]);
  cluster.elect(1);
  cluster.join(4);
  cluster.join(5);
  cluster.change({ steps: [addLearner(4)] });
  cluster.change({ steps: [addLearner(5)] });
  cluster.tick(3);
  const leader = cluster.get(1);
  assert.ok("index" in leader.proposeChange({ steps: [addVoter(4), addVoter(5)] }));
  for (const id of [2, 3, 4, 5]) {
    // Everybody has the entry, and nobody but the leader knows that it committed when that one falls.
    const { messages } = settle(leader, cluster.views.get(1)!);
    for (const m of messages) cluster.get(m.to).step(m);
    settle(cluster.get(id), cluster.views.get(id)!);
  }
  cluster.cut.add(1);
  for (let i = 0; i < 100 && !cluster.leader; i++) cluster.tick(1, [2, 3, 4, 5]);
  cluster.tick(10, [2, 3, 4, 5]);
  for (const id of [2, 3, 4, 5]) {
    assert.deepEqual(cluster.get(id).configuration, configurationOf([1, 2, 3, 4, 5]), `replica ${id}`);
  }
});

Deno.test("A leader that is removed commits that, tells the others, and hands over at once", () => {
  const cluster = new TestCluster([1, 2, 3]);
  const leader = cluster.elect(1);
  const index = cluster.change({ steps: [remove(1)] });
  assert.equal(leader.role, "follower");
  assert.ok(leader.commitIndex >= index);
  assert.deepEqual(leader.configuration, configurationOf([2, 3]));
  const next = cluster.leader!;
  assert.ok(next && next.id !== 1, "no tick was needed");
  assert.deepEqual(cluster.get(2).configuration, configurationOf([2, 3]));
  assert.deepEqual(cluster.get(3).configuration, configurationOf([2, 3]));
  const { term } = next;
  cluster.tick(60);
  assert.equal(leader.role, "follower");
  assert.deepEqual([cluster.leader?.id, cluster.leader?.term], [next.id, term]);
});

Deno.test("A leader that is replaced in one joint step keeps the group going to its end", () => {
  const cluster = new TestCluster([1, 2, 3]);
  cluster.elect(1);
  cluster.join(4);
  cluster.change({ steps: [remove(1), addVoter(4)] });
  cluster.tick(3);
  assert.equal(cluster.get(1).role, "follower");
  assert.ok([2, 3, 4].includes(cluster.leader!.id));
  for (const id of [1, 2, 3, 4]) assert.deepEqual(cluster.get(id).configuration, configurationOf([2, 3, 4]));
});

Deno.test("A removed replica that was told learns it with its last message", () => {
  const cluster = new TestCluster([1, 2, 3]);
  cluster.elect(1);
  cluster.change({ steps: [remove(3)] });
  assert.deepEqual(cluster.get(3).configuration, configurationOf([1, 2]));
});

Deno.test("A removed replica that was away disturbs nobody when it comes back", () => {
  const cluster = new TestCluster([1, 2, 3]);
  cluster.elect(1);
  cluster.cut.add(3);
  cluster.change({ steps: [remove(3)] });
  const { term } = cluster.get(1);
  cluster.tick(50);
  cluster.cut.delete(3);
  cluster.tick(100);
  assert.deepEqual([cluster.leader?.id, cluster.get(1).term, cluster.get(2).term], [1, term, term]);
});

Deno.test("A replica that was removed and added again under a new id starts from nothing", () => {
  const cluster = new TestCluster([1, 2, 3]);
  const leader = cluster.elect(1);
  cluster.change({ steps: [remove(3)] });
  cluster.cut.add(3);
  leader.propose(bytes("x"));
  cluster.join(4);
  cluster.change({ steps: [addLearner(4)] });
  cluster.tick(3);
  cluster.change({ steps: [addVoter(4)] });
  assert.deepEqual(cluster.get(4).configuration, configurationOf([1, 2, 4]));
  assert.equal(cluster.get(4).commitIndex, leader.commitIndex);
});

Deno.test("A newcomer behind the cut of the log gets the configuration with the snapshot", () => {
  const cluster = new TestCluster([1, 2, 3]);
  const leader = cluster.elect(1);
  for (let i = 0; i < 5; i++) leader.propose(bytes("x"));
  cluster.run();
  cluster.change({ steps: [addLearner(4)] });
  const at = leader.appliedIndex, view = cluster.views.get(1)!;
  view.base = { ...view.base, configuration: leader.metaAt(at).configuration };
  view.cut(at);
  leader.compacted(at);
  cluster.join(4);
  cluster.tick(6);
  assert.deepEqual(cluster.get(4).configuration, { ...configurationOf([1, 2, 3]), learners: [4] });
  assert.equal(cluster.get(4).firstIndex, at + 1);
  leader.propose(bytes("y"));
  cluster.tick(3);
  assert.equal(cluster.get(4).commitIndex, leader.commitIndex);
});

Deno.test("A config entry that is overwritten never takes effect", () => {
  const cluster = new TestCluster([1, 2, 3]);
  const leader = cluster.elect(1);
  cluster.cut.add(1);
  assert.ok("index" in leader.proposeChange({ steps: [remove(3)] }));
  cluster.run();
  for (let i = 0; i < 60 && !cluster.leader; i++) cluster.tick(1, [2, 3]);
  cluster.cut.clear();
  cluster.tick(10);
  for (const id of [1, 2, 3]) assert.deepEqual(cluster.get(id).configuration, configurationOf([1, 2, 3]));
  assert.ok("index" in cluster.leader!.proposeChange({ steps: [addLearner(4)] }), "none is pending any more");
});

Deno.test("A restarted replica knows every configuration but the last one of its log to be in force", () => {
  const cluster = new TestCluster([1, 2, 3]);
  cluster.elect(1);
  cluster.join(4);
  cluster.change({ steps: [addLearner(4)] });
  cluster.tick(3);
  cluster.change({ steps: [addVoter(4)] });
  const first = cluster.get(2).configurationIndex;
  cluster.leader!.proposeChange({ steps: [remove(3)] });
  cluster.run();
  // The commit index on disk lags behind everything that was decided.
  const { term, vote } = cluster.get(2);
  const again = cluster.restart(2, { term, vote, commit: 1 }, 1);
  assert.equal(again.configurationIndex, first);
  assert.deepEqual(again.configuration, configurationOf([1, 2, 3, 4]));
  assert.ok(again.commitIndex >= first);
});

Deno.test("A leader that comes to a smaller quorum commits what that one holds", () => {
  const cluster = new TestCluster([1, 2]);
  const leader = cluster.elect(1);
  assert.ok("index" in leader.proposeChange({ steps: [remove(2)] }));
  leader.propose(bytes("x"));
  settle(leader, cluster.views.get(1)!);
  // 2 has the change and not what follows; alone, the leader decides that too.
  leader.step(message("append_response", 2, 1, leader.term, 0, leader.lastIndex - 1));
  assert.equal(leader.commitIndex, leader.lastIndex);
  assert.equal(leader.alone, true);
});

Deno.test("A proposal after the change that removes its leader is not lost: the next leader holds it", () => {
  const cluster = new TestCluster([1, 2, 3]);
  const leader = cluster.elect(1);
  const { term } = leader;
  assert.ok("index" in leader.proposeChange({ steps: [remove(1)] }));
  const { index } = leader.propose(bytes("x")) as { index: number };
  cluster.run();
  assert.ok(cluster.leader!.commitIndex > index);
  assert.equal(cluster.leader!.termOf(index), term);
});

Deno.test("A voter that was left alone without word learns it from the one that votes no more", () => {
  const cluster = new TestCluster([1, 2]);
  const leader = cluster.elect(1), other = cluster.get(2);
  leader.proposeChange({ steps: [{ type: "add_learner", id: 1 }] });
  for (const m of settle(leader, cluster.views.get(1)!).messages) other.step(m);
  for (const m of settle(other, cluster.views.get(2)!).messages) leader.step(m);
  // The change has committed, and what would tell so is lost; the log of the old leader is the longer one.
  leader.propose(bytes("late"));
  settle(leader, cluster.views.get(1)!);
  assert.deepEqual([leader.configuration.voters, other.configuration.voters], [[2], [1, 2]]);
  cluster.tick(40);
  assert.equal(other.role, "leader");
  assert.deepEqual(other.configuration.learners, [1]);
});

Deno.test("A transfer to a voter that is removed meanwhile ends", () => {
  const cluster = new TestCluster([1, 2, 3]);
  const leader = cluster.elect(1);
  cluster.cut.add(3);
  assert.ok("index" in leader.proposeChange({ steps: [remove(3)] }));
  assert.equal(leader.transferLeader(3), true);
  cluster.run();
  assert.notEqual(leader.propose(bytes("x")), "transferring");
});

Deno.test("Config entries of the log are what the configuration encodes to", () => {
  const cluster = new TestCluster([1, 2, 3]);
  cluster.elect(1);
  const index = cluster.change({ steps: [addLearner(9)] });
  const entry = cluster.views.get(2)!.held.find((held) => held.index === index)!;
  assert.deepEqual(entry.data, encodeConfiguration({ ...configurationOf([1, 2, 3]), learners: [9] }));
});

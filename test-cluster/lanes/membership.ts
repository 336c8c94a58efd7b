import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import { ClusterService, KvService, type Member } from "@ultracloud/proto/chainfire/v1";
import type { Lane, LaneRun } from "../harness/lane.ts";
import { chainfireProbe } from "../harness/stores.ts";
import { waitFor } from "../harness/wait.ts";

const guest = "node04";
const probeKey = "/lane/membership";
const notYet: ReadonlySet<string> = new Set(["members_unknown", "change_pending", "not_leader"]);

/** Live reconfiguration of chainfire, from three members over four and two back to the canonical three. */
export const membership: Lane = {
  name: "chainfire-live-membership-proof",
  summary:
    "learner, promotion, leader transfer, restart, removal of the leader, re-add and scale-in, with local reads throughout",
  profile: "stores",
  run: async (run) => await new Membership(run).prove(),
};

class Membership {
  readonly #run: LaneRun;
  /** Nodes that have a running member. */
  readonly #live = new Set<string>();
  readonly #ids = new Map<string, bigint>();
  #written = 0;

  constructor(run: LaneRun) {
    this.#run = run;
    for (const node of run.cluster.nodesWith("chainfire")) {
      this.#live.add(node);
      this.#ids.set(node, BigInt(run.cluster.file.nodes[node]!.member));
    }
  }

  /** Speaks to members that live now. */
  #cluster(node?: string) {
    const at = node ?? [...this.#live][0]!;
    return this.#run.cluster.clients.of(ClusterService, "chainfire", { node: at, timeoutMs: 30_000, retries: 0 });
  }

  async #leader(): Promise<string> {
    const { cluster } = this.#run;
    return await waitFor({ timeoutMs: 60_000, what: "a leader", signal: this.#run.signal }, async () => {
      const seen = await Promise.all(
        [...this.#live].map(async (node) =>
          (await this.#run.cluster.clients.of(ClusterService, "chainfire", { node, retries: 0, timeoutMs: 2_000 })
            .status({})).leader
        ),
      );
      if (seen.some((leader) => leader !== seen[0])) return undefined;
      return [...this.#ids].find(([node, id]) => id === seen[0] && cluster.nodes.includes(node))?.[0];
    });
  }

  async #members(): Promise<Member[]> {
    return (await this.#cluster(await this.#leader()).memberList({})).members;
  }

  /** A write through the leader is read locally, serializable, on every live member; the evidence of each transition. */
  async #step(name: string, work: () => Promise<string>): Promise<void> {
    const { cluster, signal } = this.#run;
    await this.#run.check(name, async () => {
      const detail = await work();
      const probe = chainfireProbe(cluster);
      const value = `${++this.#written} ${name}`;
      const begin = performance.now();
      await waitFor({ timeoutMs: 60_000, what: "a write", signal }, async () => {
        await this.#put(value);
        return true;
      });
      const reads: Record<string, number> = {};
      for (const node of this.#live) {
        const what = `the write on ${node}`;
        await waitFor(
          { timeoutMs: 60_000, what, everyMs: 20, signal },
          async () => (await probe.getLocal(probeKey, node)) === value || undefined,
        );
        reads[node] = Math.round(performance.now() - begin);
      }
      const members = await this.#members();
      const file = `${String(this.#written).padStart(2, "0")}-${name.replaceAll(/[^a-z0-9]+/gi, "-")}.json`;
      await this.#run.evidence(file, { members, leader: await this.#leader(), localReadsMs: reads });
      return `${detail}; read locally on ${[...this.#live].sort().join(", ")}`;
    });
  }

  async #put(value: string): Promise<void> {
    const leader = await this.#leader();
    const kv = this.#run.cluster.clients.of(KvService, "chainfire", { node: leader, retries: 0, timeoutMs: 3_000 });
    const bytes = (text: string) => new TextEncoder().encode(text);
    await kv.put({ key: bytes(probeKey), value: bytes(value) });
  }

  async #add(node: string, isLearner: boolean): Promise<void> {
    const { cluster, signal } = this.#run;
    const { name, peerUrl, clientUrl } = cluster.memberInfo(node, "chainfire");
    const request = { name, peerUrl, clientUrl, isLearner };
    // One change at a time, and the founders must be on record first: both are told before anything is done.
    const what = `${node} to be added`;
    const answer = await waitFor({ timeoutMs: 60_000, what, everyMs: 200, signal }, async () => {
      try {
        return await this.#cluster(await this.#leader()).memberAdd(request);
      } catch (error) {
        if (error instanceof Fault && notYet.has(error.code)) return undefined;
        throw error;
      }
    });
    const id = answer.member!.id;
    this.#ids.set(node, id);
    await cluster.stop(node, "chainfire");
    // A member of the past keeps nothing: its id is spent, and so is its log.
    const { state } = cluster.substrate.dirs(node);
    await cluster.substrate.exec(node, ["find", `${state}/chainfire`, "-mindepth", "1", "-delete"]);
    await cluster.configure(node, "chainfire", {
      memberId: Number(id),
      join: true,
      members: answer.members.map((m) => ({
        id: Number(m.id),
        name: m.name,
        peerUrl: m.peerUrl,
        clientUrl: m.clientUrl,
      })),
      peer: cluster.peerListener(node, "chainfire"),
    });
    await cluster.start(node, "chainfire");
    await cluster.waitReady(node, "chainfire", signal);
    this.#live.add(node);
  }

  async #promote(node: string): Promise<void> {
    const id = this.#ids.get(node)!;
    await waitFor(
      { timeoutMs: 60_000, what: `${node} to have caught up`, everyMs: 200, signal: this.#run.signal },
      async () => {
        await this.#cluster(await this.#leader()).memberPromote({ id });
        return true;
      },
    );
  }

  async #remove(node: string): Promise<void> {
    const id = this.#ids.get(node)!;
    const caller = await this.#leader();
    this.#live.delete(node);
    await this.#cluster(caller).memberRemove({ id });
    await this.#run.cluster.stop(node, "chainfire");
    this.#ids.delete(node);
  }

  async #isLearner(node: string): Promise<boolean | undefined> {
    return (await this.#members()).find((member) => member.id === this.#ids.get(node))?.isLearner;
  }

  async prove(): Promise<void> {
    const canonical = this.#run.cluster.nodesWith("chainfire");
    let removed = "";
    // On a cluster that is up, members may have come and gone before.
    await waitFor({ timeoutMs: 60_000, what: "the members", signal: this.#run.signal }, async () => {
      const { members } = await this.#cluster().memberList({});
      for (const { name, id } of members) if (this.#ids.has(name)) this.#ids.set(name, id);
      return true;
    });
    await this.#step("three canonical members", async () => `${await this.#leader()} leads`);
    await this.#step("a temporary learner joins and replicates", async () => {
      await this.#add(guest, true);
      assert.equal(await this.#isLearner(guest), true);
      return `${guest} learns as member ${this.#ids.get(guest)}`;
    });
    await this.#step("the learner becomes a voter", async () => {
      await this.#promote(guest);
      assert.equal(await this.#isLearner(guest), false);
      return `${guest} votes`;
    });
    await this.#step("leadership moves to another live voter", async () => {
      const before = await this.#leader();
      const target = canonical.find((node) => node !== before)!;
      await this.#cluster(before).leaderTransfer({ target: this.#ids.get(target)! });
      assert.equal(await this.#leader(), target);
      return `${before} handed over to ${target}`;
    });
    await this.#step("the temporary voter restarts and rejoins", async () => {
      await this.#run.cluster.kill(guest, "chainfire");
      await this.#run.cluster.start(guest, "chainfire");
      await this.#run.cluster.waitReady(guest, "chainfire", this.#run.signal);
      return `${guest} was killed and came back`;
    });
    await this.#step("the current leader is removed, and another is elected", async () => {
      removed = await this.#leader();
      await this.#remove(removed);
      const next = await this.#leader();
      assert.notEqual(next, removed);
      return `${removed} went, ${next} leads`;
    });
    await this.#step("the removed leader is added again, as a new member", async () => {
      await this.#add(removed, true);
      await this.#promote(removed);
      assert.equal(await this.#isLearner(removed), false);
      return `${removed} is member ${this.#ids.get(removed)}`;
    });
    await this.#step("the temporary voter goes, and three canonical members remain", async () => {
      await this.#remove(guest);
      const names = (await this.#members()).map((member) => member.name).sort();
      assert.deepEqual(names, [...canonical].sort());
      return names.join(", ");
    });
  }
}

import { assert, seededRng } from "@ultracloud/base";
import { founded, MemoryView, settle } from "./_test_support.ts";
import type { Change } from "./membership.ts";
import { type CoreOptions, coreOptions } from "./options.ts";
import { RaftCore } from "./raft.ts";
import type { Message, NodeId } from "./types.ts";

/** Several cores that hear each other at once, unless the test cuts them off; writes are durable at once. */
export class TestCluster {
  readonly cores = new Map<NodeId, RaftCore>();
  readonly views = new Map<NodeId, MemoryView>();
  /** Replicas nothing reaches and that reach nobody. */
  readonly cut = new Set<NodeId>();
  readonly #options: Partial<CoreOptions>;

  constructor(voters: readonly NodeId[], options: Partial<CoreOptions> = {}) {
    this.#options = options;
    for (const id of voters) {
      const { core, view } = founded(id, voters, options);
      this.cores.set(id, core);
      this.views.set(id, view);
    }
  }

  /** A replica that knows nothing and waits for its leader. */
  join(id: NodeId): RaftCore {
    this.views.set(id, new MemoryView());
    return this.restart(id, { term: 0, vote: 0, commit: 0 }, 0);
  }

  /** What is on disk starts again, with the commit index and the state that survived. */
  restart(id: NodeId, hardState: { term: number; vote: number; commit: number }, appliedIndex: number): RaftCore {
    const view = this.views.get(id)!;
    const options = coreOptions({ id, electionTicks: 10, heartbeatTicks: 2, ...this.#options });
    const core = new RaftCore(options, { view, hardState, base: view.base, appliedIndex }, { rng: seededRng(id) });
    this.cores.set(id, core);
    return core;
  }

  get(id: NodeId): RaftCore {
    return this.cores.get(id)!;
  }

  get leader(): RaftCore | undefined {
    return [...this.cores.values()].find((core) => core.role === "leader" && !this.cut.has(core.id));
  }

  elect(id: NodeId): RaftCore {
    this.get(id).campaign();
    this.run();
    assert(this.get(id).role === "leader", `Replica ${id} was not elected`);
    return this.get(id);
  }

  /** Everything that is due, until nobody has anything to say; snapshots arrive at once. */
  run(): void {
    for (let rounds = 0, busy = true; busy; rounds++) {
      assert(rounds < 1000, "The cluster does not come to rest");
      busy = false;
      for (const core of this.cores.values()) {
        const { messages, readies } = settle(core, this.views.get(core.id)!);
        for (const to of readies.flatMap(({ snapshotsDue }) => snapshotsDue)) this.#sendSnapshot(core, to);
        for (const m of messages) this.#deliver(m);
        busy ||= readies.length > 0;
      }
    }
  }

  tick(count = 1, ids: Iterable<NodeId> = this.cores.keys()): void {
    const all = [...ids];
    for (let i = 0; i < count; i++) {
      for (const id of all) this.get(id).tick();
      this.run();
    }
  }

  /** Asks the leader for a change, which has to be taken, and lets it happen. */
  change(change: Change): number {
    const logged = this.leader!.proposeChange(change);
    assert("index" in logged, `Change was refused: ${JSON.stringify(logged)}`);
    this.run();
    return logged.index;
  }

  #deliver(m: Message): void {
    if (!this.cut.has(m.from) && !this.cut.has(m.to)) this.cores.get(m.to)?.step(m);
  }

  #sendSnapshot(from: RaftCore, to: NodeId): void {
    const meta = from.metaAt(from.appliedIndex);
    const reached = !this.cut.has(from.id) && !this.cut.has(to) && this.cores.has(to);
    if (reached) this.get(to).offerSnapshot(from.id, from.term, meta);
    from.step({
      kind: "snapshot_status",
      from: to,
      to: from.id,
      term: from.term,
      logTerm: 0,
      index: meta.index,
      commit: 0,
      entries: [],
      reject: !reached,
      rejectHintIndex: 0,
      rejectHintTerm: 0,
      context: 0,
      force: false,
    });
  }
}

import type { Entry, Message, NodeId, RaftCore } from "@ultracloud/raft";
import { type SimLogStore, sum } from "./sim_raft_log.ts";

/** A rule of Raft was broken; the message names it. */
export class Violation extends Error {
  override readonly name = "Violation";
}

/** What the checks may look at. */
export interface CheckedNode {
  readonly id: NodeId;
  readonly core: RaftCore | undefined;
  readonly log: SimLogStore | undefined;
}

interface Decided {
  readonly term: number;
  /** Term of the replica that knew first. */
  readonly knownInTerm: number;
}

/**
 * The safety rules, held against every step of every replica. What was once seen (a leader, a vote, a decided entry)
 * is kept for the whole run, across crashes.
 */
export class RaftChecks {
  readonly #leaders = new Map<number, NodeId>();
  readonly #votes = new Map<string, NodeId>();
  readonly #terms = new Map<NodeId, number>();
  readonly #decided: (Decided | undefined)[] = [];
  /** Content that was applied at an index, and the state after it. */
  readonly #applied = new Map<number, { term: number; content: number; state: number }>();
  readonly #seenCommit = new Map<NodeId, number>();
  readonly #nodes: () => readonly CheckedNode[];

  constructor(nodes: () => readonly CheckedNode[]) {
    this.#nodes = nodes;
  }

  get decidedLast(): number {
    return this.#decided.length - 1;
  }

  /** After anything happened on a replica. */
  stepped(node: CheckedNode): void {
    const { core } = node;
    if (!core) return;
    const known = this.#terms.get(node.id) ?? 0;
    if (core.role === "leader" && this.#leaders.get(core.term) !== node.id) this.#elected(node, core);
    if (core.term > known) this.#terms.set(node.id, core.term);
    this.#commits(node, core);
    if (core.role === "leader") this.#progress(core);
  }

  /** A replica starts again. What it sent in its earlier life binds it. */
  restarted(node: CheckedNode): void {
    this.#seenCommit.delete(node.id);
  }

  /** A replica is about to send. */
  sending(node: CheckedNode, m: Message): void {
    if (m.kind === "vote_response" && !m.reject) {
      this.#remember(this.#votes, `${m.term}/${node.id}`, m.to, `Replica ${node.id} votes twice in term ${m.term}`);
    }
    if (m.kind === "vote") {
      this.#remember(this.#votes, `${m.term}/${node.id}`, node.id, `Replica ${node.id} votes twice in term ${m.term}`);
    }
    if (m.kind === "append_response" && !m.reject && m.index > 0 && m.term === node.core!.term) {
      const durable = node.log!.durableLast();
      require(durable >= m.index, `Replica ${node.id} acknowledges ${m.index} while only ${durable} is durable`);
    }
  }

  applied(id: NodeId, index: number, state: number, entry: Entry): void {
    const content = sum(entry.data);
    const before = this.#applied.get(index);
    if (!before) {
      this.#applied.set(index, { term: entry.term, content, state });
      return;
    }
    require(
      before.term === entry.term && before.content === content,
      `State machine safety: replica ${id} applies another entry at ${index}`,
    );
    require(before.state === state, `Replica ${id} has another state at ${index}`);
  }

  /** A client was told that its write took effect at `index`. */
  acknowledged(index: number): void {
    const term = this.#decided[index]?.term;
    require(term !== undefined, `Write at ${index} was acknowledged before it was decided`);
    // Replicas that are down keep their disk.
    const holders = this.#nodes().filter(({ log }) => log?.holdsDurably(index, term)).length;
    const quorum = Math.floor(this.#nodes().length / 2) + 1;
    require(holders >= quorum, `Write at ${index} was acknowledged while durable on ${holders} replicas`);
  }

  #elected(node: CheckedNode, core: RaftCore): void {
    const { term } = core;
    const other = this.#leaders.get(term);
    require(other === undefined, `Election safety: term ${term} has leaders ${other} and ${node.id}`);
    this.#leaders.set(term, node.id);
    for (let index = core.firstIndex; index < this.#decided.length; index++) {
      const decided = this.#decided[index];
      if (!decided || decided.knownInTerm >= term) continue;
      require(
        core.termOf(index) === decided.term,
        `Leader completeness: leader ${node.id} of term ${term} lacks decided entry ${index}`,
      );
    }
  }

  #commits(node: CheckedNode, core: RaftCore): void {
    const seen = this.#seenCommit.get(node.id);
    const from = (seen ?? core.firstIndex - 1) + 1;
    if (core.role === "leader" && seen !== undefined && core.commitIndex > seen) {
      const term = core.termOf(core.commitIndex);
      require(term === core.term, `Leader ${node.id} of term ${core.term} commits by counting in term ${term}`);
    }
    for (let index = Math.max(from, core.firstIndex); index <= core.commitIndex; index++) {
      const term = core.termOf(index);
      if (term === undefined) continue;
      const decided = this.#decided[index];
      if (!decided) this.#decided[index] = { term, knownInTerm: core.term };
      else require(decided.term === term, `Log matching: replica ${node.id} decides another entry at ${index}`);
    }
    this.#seenCommit.set(node.id, core.commitIndex);
  }

  #progress(core: RaftCore): void {
    for (const peer of core.peers()) {
      require(peer.match < peer.next, `Leader ${core.id} has match ${peer.match} at next ${peer.next}`);
      const node = this.#nodes().find(({ id }) => id === peer.id);
      if (!node?.log || !node.core || node.core.term !== core.term) continue;
      const durable = node.log.durableLast();
      require(peer.match <= durable, `Leader ${core.id} counts ${peer.match} on ${peer.id}, which holds ${durable}`);
    }
  }

  #remember<K, V>(map: Map<K, V>, key: K, value: V, rule: string): void {
    const before = map.get(key);
    require(before === undefined || before === value, rule);
    map.set(key, value);
  }
}

function require(condition: boolean, rule: string): asserts condition {
  if (!condition) throw new Violation(rule);
}

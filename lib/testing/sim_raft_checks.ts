import {
  bootstrapBatch,
  type Configuration,
  configurationOf,
  decodeConfiguration,
  type Entry,
  isJoint,
  leaveJoint,
  type Message,
  type NodeId,
  type RaftCore,
} from "@ultracloud/raft";
import { type CheckedLog, sum } from "./sim_raft_log.ts";
import type { Performed } from "./sim_raft_machine.ts";

/** A rule of Raft was broken; the message names it. */
export class Violation extends Error {
  override readonly name = "Violation";
}

/** What the checks may look at. */
export interface CheckedNode {
  readonly id: NodeId;
  readonly core: RaftCore | undefined;
  readonly log: CheckedLog | undefined;
}

interface Decided {
  readonly term: number;
  /** Term of the replica that knew first. */
  readonly knownInTerm: number;
}

/** What was seen of one replica in its present life. */
interface Seen {
  commit: number | undefined;
  /** Term it leads, and where its log ended then. */
  leads: number;
  last: number;
}

/**
 * The safety rules, held against every step of every replica. What was once seen (a leader, a vote, a decided entry)
 * is kept for the whole run, across crashes.
 */
export class RaftChecks {
  readonly #leaders = new Map<number, NodeId>();
  readonly #votes = new Map<string, NodeId>();
  /** The highest term in which a replica has said something that it must remember. */
  readonly #toldTerms = new Map<NodeId, number>();
  readonly #decided: (Decided | undefined)[] = [];
  /** Hash over the log up to an entry, by the entry's index and term. */
  readonly #chains = new Map<string, number>();
  /** Content that was applied at an index, and the state after it. */
  readonly #applied = new Map<number, { term: number; content: number; state: number }>();
  /** Where each write of a client took effect. */
  readonly #performed = new Map<string, number>();
  /** Every configuration that was applied, oldest first. */
  readonly #configurations: { readonly index: number; readonly configuration: Configuration }[];
  readonly #seen = new Map<NodeId, Seen>();
  readonly #nodes: () => readonly CheckedNode[];

  constructor(founders: readonly NodeId[], nodes: () => readonly CheckedNode[]) {
    this.#nodes = nodes;
    this.#configurations = [{ index: 0, configuration: configurationOf(founders) }];
    this.logged(founders[0]!, bootstrapBatch(founders).entries, 0);
  }

  /** The last that came into force. */
  get configuration(): Configuration {
    return this.#configurations.at(-1)!.configuration;
  }

  get decidedLast(): number {
    return this.#decided.length - 1;
  }

  /** After anything happened on a replica. */
  stepped(node: CheckedNode): void {
    const { core } = node;
    if (!core) return;
    let seen = this.#seen.get(node.id);
    if (!seen) this.#seen.set(node.id, seen = { commit: undefined, leads: 0, last: 0 });
    const told = this.#toldTerms.get(node.id) ?? 0;
    require(core.term >= told, `Replica ${node.id} is in term ${core.term} after it spoke in term ${told}`);
    if (core.role === "leader" && this.#leaders.get(core.term) !== node.id) this.#elected(node, core);
    this.#commits(node, core, seen);
    if (core.role === "leader") {
      this.#progress(core);
      require(
        seen.leads !== core.term || core.lastIndex >= seen.last,
        `Leader ${node.id} of term ${core.term} took back entries behind ${core.lastIndex}`,
      );
      seen.leads = core.term;
      seen.last = core.lastIndex;
    }
  }

  /** A replica starts again. What it sent in its earlier life binds it. */
  restarted(node: CheckedNode): void {
    this.#seen.delete(node.id);
  }

  /** A replica is about to send. */
  sending(node: CheckedNode, m: Message): void {
    if (m.kind === "vote_response" && !m.reject) {
      this.#remember(this.#votes, `${m.term}/${node.id}`, m.to, `Replica ${node.id} votes twice in term ${m.term}`);
    }
    if (m.kind === "vote") {
      this.#remember(this.#votes, `${m.term}/${node.id}`, node.id, `Replica ${node.id} votes twice in term ${m.term}`);
    }
    if (m.kind === "vote" || m.kind === "vote_response" || m.kind === "append_response" || m.kind === "append") {
      this.#toldTerms.set(node.id, Math.max(this.#toldTerms.get(node.id) ?? 0, m.term));
    }
    if (m.kind === "append_response" && !m.reject && m.index > 0 && m.term === node.core!.term) {
      const durable = node.log!.durableLast();
      require(durable >= m.index, `Replica ${node.id} acknowledges ${m.index} while only ${durable} is durable`);
    }
  }

  /** A replica puts consecutive entries into its log, behind one of term `termBefore`; undefined when that is unknown. */
  logged(id: NodeId, entries: readonly Entry[], termBefore: number | undefined): void {
    const [first] = entries;
    if (!first || termBefore === undefined) return;
    let chain = this.#chains.get(`${first.index - 1}/${termBefore}`);
    for (const { index, term, data } of entries) {
      chain = Math.imul((chain ?? 0) ^ sum(data), 0x01000193) ^ term;
      this.#remember(
        this.#chains,
        `${index}/${term}`,
        chain,
        `Log matching: replica ${id} logs another ${index}/${term}`,
      );
    }
  }

  applied(id: NodeId, index: number, state: number, entry: Entry, performed: Performed | undefined): void {
    if (performed && !performed.repeated) {
      const { client, sequence } = performed.command;
      const once = `Write ${sequence} of client ${client} takes effect again at ${index}`;
      this.#remember(this.#performed, `${client}/${sequence}`, index, once);
    }
    const content = sum(entry.data);
    const before = this.#applied.get(index);
    if (!before) {
      this.#applied.set(index, { term: entry.term, content, state });
      if (entry.kind === "config" && index > 1) this.#changed(index, decodeConfiguration(entry.data));
      return;
    }
    require(
      before.term === entry.term && before.content === content,
      `State machine safety: replica ${id} applies another entry at ${index}`,
    );
    require(before.state === state, `Replica ${id} has another state at ${index}`);
  }

  /** A replica's state was replaced by a snapshot. */
  restored(id: NodeId, index: number, state: number): void {
    const known = this.#applied.get(index);
    require(known?.state === state, `Replica ${id} restored another state at ${index}`);
  }

  /** A client was told that its write took effect at `index`. */
  acknowledged(by: CheckedNode, index: number): void {
    const term = this.#decided[index]?.term;
    require(term !== undefined, `Write at ${index} was acknowledged before it was decided`);
    require(this.#safe(by.core!.configuration, index, term), `Write at ${index} was acknowledged and could get lost`);
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

  #commits(node: CheckedNode, core: RaftCore, seen: Seen): void {
    const from = (seen.commit ?? core.firstIndex - 1) + 1;
    require(core.commitIndex >= from - 1, `Replica ${node.id} takes back its commit index to ${core.commitIndex}`);
    // What another replica had decided, a leader may also have heard of.
    if (core.role === "leader" && seen.commit !== undefined && !this.#decided[core.commitIndex]) {
      const term = core.termOf(core.commitIndex);
      require(term === core.term, `Leader ${node.id} of term ${core.term} commits by counting in term ${term}`);
      require(
        this.#safe(core.configuration, core.commitIndex, term),
        `Leader ${node.id} commits ${core.commitIndex}, which could get lost`,
      );
    }
    for (let index = Math.max(from, core.firstIndex); index <= core.commitIndex; index++) {
      const term = core.termOf(index);
      if (term === undefined) continue;
      const decided = this.#decided[index];
      if (!decided) this.#decided[index] = { term, knownInTerm: core.term };
      else require(decided.term === term, `Log matching: replica ${node.id} decides another entry at ${index}`);
    }
    seen.commit = core.commitIndex;
  }

  /** Whether nobody can be elected, or decide anything, without a replica that holds the entry durably. */
  #safe({ voters, votersOutgoing }: Configuration, index: number, term: number): boolean {
    // A replica that is down keeps its disk.
    const lacking = (id: NodeId) => !this.#nodes().find((node) => node.id === id)?.log?.holdsDurably(index, term);
    const protects = (half: readonly NodeId[]) =>
      half.length > 0 && half.filter(lacking).length < Math.floor(half.length / 2) + 1;
    return protects(voters) || protects(votersOutgoing);
  }

  /** The next configuration came into force: it must be one step from the last. */
  #changed(index: number, next: Configuration): void {
    const { configuration: last } = this.#configurations.at(-1)!;
    const moved = last.voters.filter((id) => !next.voters.includes(id)).length +
      next.voters.filter((id) => !last.voters.includes(id)).length;
    const fits = isJoint(last)
      ? JSON.stringify(leaveJoint(last)) === JSON.stringify(next)
      : isJoint(next)
      ? next.votersOutgoing.join() === last.voters.join()
      : moved <= 1;
    require(fits, `Configuration ${JSON.stringify(next)} at ${index} is no step from ${JSON.stringify(last)}`);
    this.#configurations.push({ index, configuration: next });
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

import { type Clock, Fault, fault, invalidField } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import type { ChangeStep, Configuration, Transition } from "@ultracloud/raft";
import type { PeerTransport } from "@ultracloud/replica";
import type { MemberInfo } from "./domain/types.ts";
import { rejections } from "./errors.ts";
import type { Member } from "./member.ts";
import type { StateListener } from "./state/machine.ts";

/** What a caller says about a member that is to come. */
export type NewMember = Omit<MemberInfo, "id">;

/** A member and the part it takes. */
export interface ListedMember extends MemberInfo {
  readonly learner: boolean;
  /** Gets its vote by itself. */
  readonly autoPromote: boolean;
}

/**
 * Who takes part. The addresses are rows of the replicated state, written before a member is added and removed after it
 * has gone, so that every member and every snapshot knows the way to the others. One change at a time.
 */
export class Membership implements StateListener {
  readonly #member: Member;
  readonly #founders: readonly MemberInfo[];
  readonly #transport: PeerTransport | undefined;
  readonly #log: Logger;
  readonly #clock: Clock;
  #changing = false;

  constructor(
    founders: readonly MemberInfo[],
    deps: {
      readonly member: Member;
      readonly transport: PeerTransport | undefined;
      readonly log: Logger;
      readonly clock: Clock;
    },
  ) {
    this.#member = deps.member;
    this.#founders = founders;
    this.#transport = deps.transport;
    this.#log = deps.log;
    this.#clock = deps.clock;
    this.membersChanged();
  }

  /** Ways to the others follow the table. */
  membersChanged(): void {
    const { state, options } = this.#member;
    if (state.members.size === 0) return;
    for (const { id, peerUrl } of state.members.values()) {
      if (id !== options.memberId && peerUrl !== "") this.#transport?.setPeer(id, peerUrl);
    }
    for (const id of [...this.#known, ...this.#founders.map((founder) => founder.id)]) {
      // A founder that is not written down yet has an id still to come.
      if (!state.members.has(id) && id < state.nextMemberId) this.#transport?.removePeer(id);
    }
    this.#known = [...state.members.keys()];
  }
  #known: readonly number[] = [];

  /** The members as the configuration has them. */
  list(): ListedMember[] {
    const { configuration } = this.#member.group.status();
    const learners = new Set([...configuration.learners, ...configuration.learnersNext]);
    return idsOf(configuration).map((id) => ({
      ...this.#member.info(id) ?? { id, name: String(id), peerUrl: "", clientUrl: "" },
      learner: learners.has(id),
      autoPromote: learners.has(id) && this.#member.state.promoting.has(id),
    }));
  }

  /** With `autoPromote` it is a learner that any leader gives its vote once it has caught up. */
  async add(
    wanted: NewMember,
    { learner, autoPromote }: { readonly learner: boolean; readonly autoPromote: boolean },
  ): Promise<MemberInfo> {
    return await this.#alone(async () => {
      const added = await this.#announce(wanted);
      if (autoPromote) await this.#member.proposeLeading({ kind: "await_promotion", id: added.id });
      await this.#change([{ type: learner ? "add_learner" : "add_voter", id: added.id }], added);
      return added;
    });
  }

  async promote(id: number): Promise<void> {
    await this.#alone(async () => {
      this.#check(id);
      if (this.#member.group.status().voters.includes(id)) {
        throw fault(
          "failed_precondition",
          "member_not_learner",
          `Cannot promote member ${id} as it has a vote already`,
        );
      }
      await this.#change([{ type: "add_voter", id }]);
    });
  }

  async remove(id: number): Promise<void> {
    await this.#alone(async () => {
      this.#check(id);
      await this.#change([{ type: "remove", id }]);
      await this.#forget(id);
    });
  }

  async update(id: number, wanted: Partial<NewMember>): Promise<void> {
    await this.#alone(async () => {
      this.#check(id);
      const known = this.#member.info(id) ?? { id, name: String(id), peerUrl: "", clientUrl: "" };
      const given = Object.fromEntries(Object.entries(wanted).filter(([, text]) => text !== ""));
      const next: MemberInfo = { ...known, ...given };
      this.#checkInfo(next, id);
      await this.#member.proposeLeading({ kind: "update_member", member: next });
    });
  }

  /** One member for another in one joint step. */
  async replace(id: number, wanted: NewMember): Promise<MemberInfo> {
    return await this.#alone(async () => {
      this.#check(id);
      const added = await this.#announce(wanted, id);
      await this.#change([{ type: "remove", id }, { type: "add_voter", id: added.id }], added, "joint_auto");
      await this.#forget(id);
      return added;
    });
  }

  /** Puts the table in order, where it differs from the configuration; a leader does it now and then. */
  async tidy(): Promise<void> {
    if (this.#changing || this.#member.group.status().role !== "leader" || !this.#untidy()) return;
    this.#tidying = this.#alone(() => Promise.resolve());
    try {
      await this.#tidying;
    } finally {
      this.#tidying = undefined;
    }
  }
  /** Whoever asks for a change meanwhile waits for it instead of being refused. */
  #tidying: Promise<void> | undefined;

  /** Writes the founders into the table, and takes out rows that no configuration has: a leader that failed left them. */
  async #putInOrder(): Promise<void> {
    // A change of the leader before may be logged and not in force yet: what it added must not be taken out.
    await this.#member.group.readBarrier();
    const { missing, stale, moved } = this.#untidy() ?? { missing: [], stale: [], moved: undefined };
    for (const member of missing) await this.#member.proposeLeading({ kind: "add_member", member });
    for (const id of stale) await this.#forget(id);
    if (moved) await this.#member.proposeLeading({ kind: "update_member", member: moved });
  }

  /** Where the table differs from the configuration; undefined when it does not. */
  #untidy() {
    const { state, group } = this.#member;
    const taking = idsOf(group.status().configuration);
    const missing = this.#founders.filter(({ id }) => id >= state.nextMemberId && taking.includes(id));
    const stale = [...state.members.keys()].filter((id) => !taking.includes(id));
    const moved = this.#founders.length === 1 ? this.#movedFounder() : undefined;
    if (missing.length + stale.length === 0 && !moved) return undefined;
    return { missing: missing.sort((a, b) => a.id - b.id), stale, moved };
  }

  /** A member that decides alone is where its configuration says; nobody else could know. */
  #movedFounder(): MemberInfo | undefined {
    const { state } = this.#member;
    const [own] = this.#founders;
    const known = state.members.get(own!.id);
    if (state.members.size !== 1 || !known) return undefined;
    return known.peerUrl === own!.peerUrl && known.clientUrl === own!.clientUrl ? undefined : own;
  }

  async #alone<T>(work: () => Promise<T>): Promise<T> {
    this.#member.checkLeads();
    if (this.#changing) await this.#tidying?.catch(() => {});
    if (this.#changing) {
      throw fault("failed_precondition", "change_pending", "Cannot change the members while another change goes on", {
        retryAfterMs: this.#member.options.electionTimeoutMs,
      });
    }
    this.#changing = true;
    try {
      // Names and addresses of a change that a killed leader began must not stand in the way of its repetition.
      if (this.#untidy()) await this.#putInOrder();
      return await work();
    } finally {
      this.#changing = false;
    }
  }

  #check(id: number): void {
    if (!this.list().some((member) => member.id === id)) throw rejections.memberNotFound(id);
  }

  async #announce(wanted: NewMember, replaced?: number): Promise<MemberInfo> {
    const { state, group } = this.#member;
    const added: MemberInfo = { ...wanted, id: state.nextMemberId };
    // The next id could be that of a founder.
    if (idsOf(group.status().configuration).some((id) => !state.members.has(id))) {
      throw fault("unavailable", "members_unknown", "Cannot add a member yet: the founders are not written down", {
        retryAfterMs: this.#member.options.electionTimeoutMs,
      });
    }
    this.#checkInfo(added, replaced);
    await this.#member.proposeLeading({ kind: "add_member", member: added });
    return added;
  }

  async #change(steps: readonly ChangeStep[], added?: MemberInfo, transition: Transition = "auto"): Promise<void> {
    const endMs = this.#clock.monotonicMs() + 2 * this.#member.options.electionTimeoutMs;
    try {
      for (;;) {
        try {
          await this.#member.group.changeConfiguration({ steps, transition });
          return;
        } catch (error) {
          // A leader that is new has not heard from everyone yet, or it is giving a learner its vote.
          const early = error instanceof Fault && passing.has(error.code) && this.#clock.monotonicMs() < endMs;
          if (!early) throw error;
          await this.#clock.sleep(retryMs);
        }
      }
    } catch (error) {
      // Refused: nothing has changed but the address. When nobody can say, it may still come into force: the leader tidies
      // up once it knows.
      const refused = error instanceof Fault && !unknown.has(error.code);
      if (added && refused && !this.list().some(({ id }) => id === added.id)) await this.#forget(added.id);
      throw error;
    }
  }

  /** Takes a member's address out; a leader that has left it to the next one. */
  async #forget(id: number): Promise<void> {
    try {
      await this.#member.proposeLeading({ kind: "remove_member", id });
    } catch (error) {
      this.#log.info("a member's address stays until the leader tidies up", { id, error });
    }
  }

  #checkInfo({ name, peerUrl, clientUrl }: MemberInfo, except?: number): void {
    if (name.length === 0 || name.length > nameCharsMax) {
      const message = `Cannot use a name of ${name.length} characters: wanted 1 to ${nameCharsMax}`;
      throw invalidField("name", message);
    }
    for (const [field, url] of [["peer_url", peerUrl], ["client_url", clientUrl]] as const) checkUrl(field, url);
    for (const other of this.#member.state.members.values()) {
      if (other.id === except) continue;
      if (other.name === name) throw taken("name", name, other.id);
      if (other.peerUrl === peerUrl) throw taken("peer_url", peerUrl, other.id);
    }
  }
}

const unknown: ReadonlySet<string> = new Set(["outcome_unknown", "stopping"]);
const passing: ReadonlySet<string> = new Set(["unsafe_change", "change_pending"]);
/** How often a change that is not safe yet is tried again. */
const retryMs = 50;

/** Everyone who takes part, ascending. */
function idsOf({ voters, votersOutgoing, learners, learnersNext }: Configuration): number[] {
  return [...new Set([...voters, ...votersOutgoing, ...learners, ...learnersNext])].sort((a, b) => a - b);
}

/** As in the configuration of members. */
const nameCharsMax = 63;
const urlCharsMax = 255;

function checkUrl(field: string, url: string): void {
  const parsed = url.length <= urlCharsMax ? URL.parse(url) : null;
  if (parsed && ["http:", "https:"].includes(parsed.protocol) && parsed.port !== "") return;
  throw invalidField(
    field,
    `Cannot use ${JSON.stringify(url.slice(0, 80))} as ${field}: wanted http:// or https:// with host and port`,
  );
}

function taken(field: string, value: string, id: number) {
  return fault("already_exists", "member_exists", `Cannot use ${field} ${value}: it belongs to member ${id}`, {
    field,
  });
}

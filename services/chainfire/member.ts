import { type Clock, Fault, fault, invalidField } from "@ultracloud/base";
import type { Group } from "@ultracloud/replica";
import { type CallContext, callerIdempotency } from "@ultracloud/rpc";
import { type DescMessage, type MessageShape, toBinary } from "@bufbuild/protobuf";
import type { SessionCall as SessionCallMessage } from "@ultracloud/proto/chainfire/v1";
import { crc32 } from "node:zlib";
import type { LeaseClock } from "./domain/lease_clock.ts";
import { grows } from "./domain/check.ts";
import { WriteRates } from "./domain/write_rates.ts";
import type { CallKey, Command, CommandResult, LogEntry, MemberInfo, Op, SessionCall } from "./domain/types.ts";
import { rejections } from "./errors.ts";
import { isAdmin } from "./state/admin_codec.ts";
import { decodeEntry, encodeEntry, restampEntry } from "./state/entry_codec.ts";
import type { ChainfireState } from "./state/machine.ts";
import { type HeaderInit, toNumber } from "./wire.ts";

export interface MemberOptions {
  readonly clusterId: string;
  readonly memberId: number;
  readonly version: string;
  /** As configured; the state's own table counts as soon as it has them. */
  readonly members: readonly MemberInfo[];
  readonly stateBytesMax: number;
  readonly electionTimeoutMs: number;
}

/** A disk fills by some three times of this before the next look. */
const volumeBytes = 1 << 20;

/** This member of the cluster: its state, its Raft group, and the way commands go into the log. */
export class Member {
  readonly options: MemberOptions;
  readonly state: ChainfireState;
  readonly group: Group;
  readonly leaseClock: LeaseClock;
  /** Size of the state as last looked at. */
  stateBytes = { total: 0, used: 0 };
  /** Free bytes of the file system as last looked at; undefined where it does not say. */
  diskBytesFree: number | undefined;
  /** The disk is nearly full: what grows the state is refused; and so nearly that every write is. */
  diskLow = false;
  diskOut = false;
  /** Counted here, told by the metrics. */
  readonly counts = { ranges: 0, txns: 0, failed: 0, readsFailed: 0 };
  /** Called after so much was logged that the disk should be looked at. */
  onVolume: () => void = () => {};
  #volume = 0;
  readonly #rates: WriteRates;
  readonly #clock: Pick<Clock, "monotonicMs">;
  /** Everything committed before is here. */
  #freshMs = -Infinity;
  readonly #memberId: bigint;
  #term: bigint;
  #learner: boolean;

  constructor(
    options: MemberOptions,
    deps: {
      readonly state: ChainfireState;
      readonly group: Group;
      readonly leaseClock: LeaseClock;
      readonly clock: Pick<Clock, "monotonicMs">;
    },
  ) {
    this.options = options;
    this.state = deps.state;
    this.group = deps.group;
    this.leaseClock = deps.leaseClock;
    this.#rates = new WriteRates(deps);
    this.#clock = deps.clock;
    this.#memberId = BigInt(options.memberId);
    // Kept here, as every answer asks for them and a status is made anew each time.
    const { term, learners } = this.group.status();
    this.#term = BigInt(term);
    this.#learner = learners.includes(options.memberId);
    this.group.onRoleChange((status) => this.#term = BigInt(status.term));
    this.group.onConfigurationChange(({ learners }) => this.#learner = learners.includes(options.memberId));
  }

  /** True while this member has the log without a vote. */
  get isLearner(): boolean {
    return this.#learner;
  }

  /** True once this member's state was found to differ from the others'. */
  get isCorrupt(): boolean {
    return this.state.alarms.length > 0 && this.state.hasAlarm("corrupt", this.options.memberId);
  }

  /** Where a member is reached; undefined when it is not known. */
  info(id: number): MemberInfo | undefined {
    return this.state.members.get(id) ?? this.options.members.find((member) => member.id === id);
  }

  readonly header = (revision: number): HeaderInit => ({
    clusterId: this.options.clusterId,
    memberId: this.#memberId,
    revision: BigInt(revision),
    raftTerm: this.#term,
  });

  /** Resolves once local state holds everything that was committed when it was called. */
  async readBarrier(): Promise<void> {
    const startMs = this.#clock.monotonicMs();
    try {
      await this.group.readBarrier();
    } catch (error) {
      this.counts.readsFailed++;
      throw error;
    }
    this.#freshMs = Math.max(this.#freshMs, startMs);
  }

  /** True when local state is known to hold everything that was committed so long ago. */
  isFresh(ageMs: number): boolean {
    return ageMs > 0 && this.#clock.monotonicMs() - this.#freshMs < ageMs;
  }

  /**
   * Resolves once the command is committed and applied here; throws its rejection. A member that does not lead has the
   * leader log it: without that one's answer the outcome is unknown, and the fault says so.
   */
  async propose(command: Command, call?: CallKey, session?: SessionCall): Promise<CommandResult> {
    return await this.#propose({ clockMs: this.leaseClock.nowMs(), call, session, command }, true);
  }

  /** The same for what only a leader does; refused where this member does not lead. */
  async proposeLeading(command: Command): Promise<CommandResult> {
    return await this.#propose({ clockMs: this.leaseClock.nowMs(), call: undefined, command }, false);
  }

  async #propose(entry: LogEntry, forward: boolean): Promise<CommandResult> {
    const data = encodeEntry(entry);
    this.#logged(data);
    let result;
    try {
      result = await this.group.propose(data, { forward });
    } catch (error) {
      this.counts.failed++;
      throw error;
    }
    if (result instanceof Fault) throw result;
    return result as CommandResult;
  }

  #logged(data: Uint8Array): void {
    if ((this.#volume += data.length) < volumeBytes) return;
    this.#volume = 0;
    this.onVolume();
  }

  /**
   * What this leader logs for a member that forwards: the same at its own reading of the lease clock, as no other counts.
   * Space and rates are those of the leader too.
   */
  admit(data: Uint8Array): Uint8Array {
    let command: Command;
    try {
      ({ command } = decodeEntry(data));
    } catch (cause) {
      throw fault("invalid_argument", "entry_malformed", "Cannot log what is no entry of this store", { cause });
    }
    if (grows(command)) this.checkSpace();
    if (this.diskOut && !isAdmin(command)) throw rejections.diskFull(this.diskBytesFree ?? 0);
    if (command.kind === "put" || command.kind === "delete" || command.kind === "txn") this.checkRate(command);
    this.#logged(data);
    return restampEntry(data, this.leaseClock.nowMs());
  }

  /** Proposes on behalf of a call, which is not done twice when it carries an idempotency key or belongs to a session. */
  async proposeFor<D extends DescMessage>(
    context: CallContext,
    schema: D,
    request: MessageShape<D> & { readonly session?: SessionCallMessage | undefined },
    command: Command,
  ): Promise<CommandResult> {
    if (this.diskOut) throw rejections.diskFull(this.diskBytesFree ?? 0);
    if (request.session) return await this.propose(command, undefined, sessionCall(context, schema, request));
    if (context.idempotencyKey === undefined) return await this.propose(command);
    return await this.propose(command, await callerIdempotency(context, schema, request));
  }

  /** Throws when the state is too large to grow, or a member has no room. */
  checkSpace(): void {
    const { used } = this.stateBytes;
    if (used >= this.options.stateBytesMax) throw rejections.noSpace(used, this.options.stateBytesMax);
    if (this.diskLow) throw rejections.diskFull(this.diskBytesFree ?? 0);
    if (this.state.alarms.length > 0 && this.state.hasAlarm("no_space")) throw rejections.noSpaceAlarm();
  }

  /** Throws when a namespace of the keys is written more often than its quota allows. */
  checkRate(op: Op): void {
    if (this.state.quotas.count > 0) this.#rates.take(op, (key) => this.state.quotas.of(key));
  }

  /** Throws unless this member leads. */
  checkLeads(): void {
    const { role, leader } = this.group.status();
    if (role === "leader") return;
    const url = this.info(leader)?.clientUrl;
    throw fault(
      "unavailable",
      "not_leader",
      `Cannot do this on member ${this.options.memberId} as ${leader === 0 ? "no leader is known" : `${leader} leads`}`,
      { retryAfterMs: this.options.electionTimeoutMs, ...(url ? { leaderHint: url } : {}) },
    );
  }
}

function sessionCall<D extends DescMessage>(
  context: CallContext,
  schema: D,
  request: MessageShape<D> & { readonly session?: SessionCallMessage | undefined },
): SessionCall {
  if (context.idempotencyKey !== undefined) {
    throw invalidField("session", "Cannot take a session and an idempotency key for one write: wanted one of them");
  }
  const { sessionId, sequence, answeredBelow } = request.session!;
  const max = BigInt(Number.MAX_SAFE_INTEGER);
  if (sessionId === 0n || sessionId >= 2n ** 63n) {
    throw invalidField("session.session_id", `Cannot use ${sessionId} as a session: wanted one that was opened`);
  }
  if (sequence === 0n || sequence > max) {
    throw invalidField("session.sequence", `Cannot use sequence ${sequence}: wanted 1 to ${max}`);
  }
  if (answeredBelow > sequence) {
    throw invalidField(
      "session.answered_below",
      `Cannot have the answers below ${answeredBelow} before sequence ${sequence} is done`,
    );
  }
  return {
    caller: context.principal.id,
    session: sessionId,
    sequence: toNumber(sequence),
    answeredBelow: toNumber(answeredBelow),
    // The session's own field differs between two tries.
    bodyHash: crc32(
      toBinary(schema, { ...request, session: undefined }),
      crc32(new TextEncoder().encode(context.method)),
    ),
  };
}

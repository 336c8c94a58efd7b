import { Fault, fault } from "@ultracloud/base";
import type { Group } from "@ultracloud/replica";
import { type CallContext, callerIdempotency } from "@ultracloud/rpc";
import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import type { LeaseClock } from "./domain/lease_clock.ts";
import type { CallKey, Command, CommandResult } from "./domain/types.ts";
import { rejections } from "./errors.ts";
import { encodeEntry } from "./state/entry_codec.ts";
import type { ChainfireState } from "./state/machine.ts";
import type { HeaderInit } from "./wire.ts";

export interface MemberInfo {
  readonly id: number;
  readonly name: string;
  readonly peerUrl: string;
  readonly clientUrl: string;
}

export interface MemberOptions {
  readonly clusterId: string;
  readonly memberId: number;
  readonly version: string;
  readonly members: readonly MemberInfo[];
  readonly stateBytesMax: number;
  readonly electionTimeoutMs: number;
}

/** This member of the cluster: its state, its Raft group, and the way commands go into the log. */
export class Member {
  readonly options: MemberOptions;
  readonly state: ChainfireState;
  readonly group: Group;
  readonly leaseClock: LeaseClock;
  /** Size of the state as last looked at. */
  stateBytes = { total: 0, used: 0 };

  constructor(
    options: MemberOptions,
    deps: { readonly state: ChainfireState; readonly group: Group; readonly leaseClock: LeaseClock },
  ) {
    this.options = options;
    this.state = deps.state;
    this.group = deps.group;
    this.leaseClock = deps.leaseClock;
  }

  readonly header = (revision: number): HeaderInit => ({
    clusterId: this.options.clusterId,
    memberId: BigInt(this.options.memberId),
    revision: BigInt(revision),
    raftTerm: BigInt(this.group.status().term),
  });

  /** Resolves once the command is committed and applied here; throws its rejection. */
  async propose(command: Command, call?: CallKey): Promise<CommandResult> {
    const clockMs = this.leaseClock.nowMs();
    const result = await this.group.propose(encodeEntry({ clockMs, call, command }));
    if (result instanceof Fault) throw result;
    return result as CommandResult;
  }

  /** Proposes on behalf of a call, which is not done twice when it carries an idempotency key. */
  async proposeFor<D extends DescMessage>(
    context: CallContext,
    schema: D,
    request: MessageShape<D>,
    command: Command,
  ): Promise<CommandResult> {
    if (context.idempotencyKey === undefined) return await this.propose(command);
    return await this.propose(command, await callerIdempotency(context, schema, request));
  }

  /** Throws when the state is too large to grow. */
  checkSpace(): void {
    const { used } = this.stateBytes;
    if (used >= this.options.stateBytesMax) throw rejections.noSpace(used, this.options.stateBytesMax);
  }

  /** Throws unless this member leads. */
  checkLeads(): void {
    const { role, leader } = this.group.status();
    if (role === "leader") return;
    const url = this.options.members.find((member) => member.id === leader)?.clientUrl;
    throw fault(
      "unavailable",
      "not_leader",
      `Cannot do this on member ${this.options.memberId} as ${leader === 0 ? "no leader is known" : `${leader} leads`}`,
      { retryAfterMs: this.options.electionTimeoutMs, ...(url ? { leaderHint: url } : {}) },
    );
  }
}

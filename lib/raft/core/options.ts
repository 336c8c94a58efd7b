import { assert, type Rng } from "@ultracloud/base";
import { raftRules, type Rules } from "./rules.ts";
import type { NodeId } from "./types.ts";

/** Durations in ticks, sizes in bytes of entry data. */
export interface CoreOptions {
  readonly id: NodeId;
  readonly electionTicks: number;
  readonly heartbeatTicks: number;
  readonly messageBytesMax: number;
  readonly inflightMessagesMax: number;
  readonly inflightBytesMax: number;
  readonly uncommittedBytesMax: number;
  readonly applyBytesMax: number;
  readonly cacheBytesMax: number;
  /** A replica that starts votes for nobody within an election timeout: it may have forgotten a leader's lease. */
  readonly waitBeforeVoting: boolean;
}

const MIB = 1024 * 1024;

/** Defaults with their reason. */
export const coreDefaults: Omit<CoreOptions, "id" | "electionTicks" | "heartbeatTicks"> = {
  /** Large enough to fill a write, small enough that a heartbeat behind it is not late. */
  messageBytesMax: 1 * MIB,
  /** Covers a round trip of 25 ms at 10 000 messages a second. */
  inflightMessagesMax: 256,
  /** What one slow peer may pin in send buffers. */
  inflightBytesMax: 32 * MIB,
  /** What may wait when a quorum is lost before proposals are refused. */
  uncommittedBytesMax: 64 * MIB,
  /** One transaction of the state machine. */
  applyBytesMax: 4 * MIB,
  /** Peers that lag less are served from memory. */
  cacheBytesMax: 16 * MIB,
  waitBeforeVoting: false,
};

/** The core's dependencies: randomness spreads elections, rules are replaced by the simulation only. */
export interface CoreDeps {
  readonly rng: Rng;
  readonly rules?: Rules;
}

/** Fills in the defaults and asserts the relations between the values. */
export function coreOptions(
  given: Pick<CoreOptions, "id" | "electionTicks" | "heartbeatTicks"> & Partial<CoreOptions>,
): CoreOptions {
  const options: CoreOptions = { ...coreDefaults, ...given };
  assert(Number.isSafeInteger(options.id) && options.id > 0, `Node id ${options.id}: wanted a positive integer`);
  assert(options.heartbeatTicks >= 1, `heartbeatTicks ${options.heartbeatTicks}: wanted at least 1`);
  assert(
    options.electionTicks > options.heartbeatTicks,
    `electionTicks ${options.electionTicks}: wanted more than heartbeatTicks ${options.heartbeatTicks}`,
  );
  assert(options.inflightMessagesMax >= 1, `inflightMessagesMax ${options.inflightMessagesMax}: wanted at least 1`);
  return options;
}

export function rulesOf(deps: CoreDeps): Rules {
  return deps.rules ?? raftRules;
}

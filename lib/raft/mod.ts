/** Raft: a pure core and a driver without I/O of its own. */
export type * from "./core/types.ts";
export type * from "./driver/types.ts";
export { type ChangeStep, enterJoint, isJoint, leaveJoint, nextConfiguration, simpleChange } from "./core/change.ts";
export type { Transition } from "./core/change.ts";
export { bootstrapBatch, configurationOf, decodeConfiguration, encodeConfiguration } from "./core/configuration.ts";
export { emptyConfiguration } from "./core/configuration.ts";
export { jointCommitted, jointVote, type VoterSets } from "./core/quorum/joint.ts";
export { majorityCommitted, majorityVote, type VoteResult } from "./core/quorum/majority.ts";
export { message } from "./core/message.ts";
export { type CoreOptions, coreOptions } from "./core/options.ts";
export { RaftCore, type Ready } from "./core/raft.ts";
export { raftRules, type Rules } from "./core/rules.ts";
export type { CoreStart } from "./core/state.ts";
export { type DriverDeps, RaftDriver } from "./driver/driver.ts";
export type { ProposalDone } from "./driver/proposals.ts";
export type { ReadDone } from "./driver/reads.ts";

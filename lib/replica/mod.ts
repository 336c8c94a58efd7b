/** Raft groups on one write-ahead log, with SQLite state machines above and RPC between the replicas. */
export { GroupReplica } from "./group.ts";
export { WalLogStore } from "./log_store.ts";
export * from "./node.ts";
export { breathe, snapshotChunkBytes, type SnapshotFile } from "./snapshot_file.ts";
export * from "./state_machine.ts";
export * from "./transport.ts";
export type * from "./types.ts";

/** An append-only log for many Raft groups: segments, checksums, one sync for all who wait. */
export { crc32c } from "./crc32c.ts";
export type { GroupBase, GroupHardState } from "./group_log.ts";
export { systemDisk } from "./system_disk.ts";
export * from "./options.ts";
export * from "./wal.ts";
export type { WalEntry, WalWrite } from "./write.ts";

/** What everything stands on: errors, ids, time, randomness, bounds, the component manifest. */
export * from "./assert.ts";
export * from "./bytes.ts";
export * from "./clock.ts";
export * from "./disk.ts";
export * from "./fault.ts";
export * from "./file_stamp.ts";
export * from "./ids.ts";
export * from "./manifest.ts";
export * from "./names.ts";
export * from "./queue.ts";
export * from "./redacted.ts";
export * from "./retry.ts";
export * from "./rng.ts";

/** What a process tells its operator: log lines, metrics, health. */
export * from "./health.ts";
export * from "./logging.ts";
export * from "./metrics.ts";

/** Whole stacks under test: real processes, real guests, faults. */
export * from "./cloud.ts";

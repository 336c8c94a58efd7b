/** Makes an installed machine speak for itself: credentials of its agent instead of a bootstrap token. */
export { configSchema, type FirstBootConfig } from "./config.ts";
export { type FirstBootDeps, runFirstBoot } from "./first_boot.ts";

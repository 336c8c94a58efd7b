/** The agent that runs instances of the fleet's services on one host. Nothing starts on import. */
export { configSchema, type NodeAgentConfig } from "./config.ts";
export { type NodeAgent, type NodeAgentDeps, openNodeAgent } from "./agent.ts";
export type { LaunchSpec, LaunchStatus, ProcessRecord } from "./domain/files.ts";
export { probe } from "./launcher/confinement.ts";
export { killRecorded } from "./launcher/processes.ts";
export { launcherUnit, scopeUnit } from "./launcher/systemd.ts";

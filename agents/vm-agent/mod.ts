/** The worker: runs virtual machines on one host for plasmavmc. Nothing starts on import. */
export { configSchema, type VmAgentConfig } from "./config.ts";
export { openVmAgent, type VmAgent } from "./agent.ts";

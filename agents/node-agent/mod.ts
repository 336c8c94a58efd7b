/** The agent that runs instances of the fleet's services on one host. Nothing starts on import. */
export { configSchema, type NodeAgentConfig } from "./config.ts";
export { type NodeAgent, type NodeAgentDeps, openNodeAgent } from "./agent.ts";

/** The network of one worker: its switch, its daemons and the taps of its guests. Nothing starts on import. */
export { type AgentDeps, type NetAgent, openNetAgent } from "./agent.ts";
export { configSchema, type NetAgentConfig } from "./config.ts";
export { northboundSocket } from "./daemons.ts";
export { linkLocalOf } from "./guard.ts";
export { Insight } from "./insight.ts";
export { netAgentService } from "./service.ts";
export { type HostDeps, type HostOptions, NetHost, southboundArgs, type Uplink, type WantedPort } from "./host.ts";
export { hostPrograms, type Programs } from "./programs.ts";

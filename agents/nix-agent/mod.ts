/** The one that changes the system of its host: copies, switches, checks, goes back. */
import type { Client } from "@connectrpc/connect";
import type { Clock, Rng } from "@ultracloud/base";
import type { Health, Logger } from "@ultracloud/observe";
import type { AgentService } from "@ultracloud/proto/deployer/v1";
import type { BoundService } from "@ultracloud/rpc";
import { Agent } from "./agent.ts";
import type { NixAgentConfig } from "./config.ts";
import { acquireDrain, type DrainClients } from "./drain.ts";
import { readJournal } from "./journal_file.ts";
import { probeHost } from "./host.ts";
import { Nix } from "./nix.ts";
import { nixAgentService } from "./service.ts";
import { chainfireSource, deployerSource } from "./source.ts";
import { TrialRunner } from "./trial_runner.ts";

export { configSchema } from "./config.ts";
export { Nix } from "./nix.ts";
export { TrialRunner } from "./trial_runner.ts";

export interface NixAgent {
  readonly service: BoundService;
  run(signal: AbortSignal): Promise<void>;
}

/** Reads the journal; nothing is changed before `run`. */
export async function openNixAgent(
  config: NixAgentConfig,
  deps: {
    readonly version: string;
    readonly deployer: Client<typeof AgentService>;
    readonly chainfire: DrainClients;
    readonly clock: Clock;
    readonly rng: Rng;
    readonly log: Logger;
    readonly health: Health;
  },
): Promise<NixAgent> {
  const { nodeName: node, stateDir } = config;
  const journalFile = `${stateDir}/journal.json`;
  const nix = new Nix({ ...config, nixConfDir: config.nixConfDir, home: `${stateDir}/nix-home` });
  const source = config.source === "deployer"
    ? deployerSource(node, deps.deployer)
    : chainfireSource(node, deps.chainfire.kv, deps);
  const host = await probeHost(config.launcher, nix);
  deps.log.info("trials run here", { ...host });
  const agent = new Agent({
    ...config,
    node,
    journalFile,
    version: deps.version,
    ...(config.markers ? { showMarker: console.log } : {}),
  }, {
    ...deps,
    nix,
    source,
    runner: new TrialRunner({ ...config, launcher: host.launcher }, nix),
    host,
    journal: await readJournal(journalFile),
    drain: (o, signal) => acquireDrain({ ...o, node }, { ...deps, clients: deps.chainfire }, signal),
  });
  return {
    service: nixAgentService({ node, source: source.name, host }, { agent, nix }),
    run: (signal) => agent.run(signal),
  };
}

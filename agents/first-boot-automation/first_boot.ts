import { createWorkloadSigner, nodeSvcId } from "@ultracloud/authz";
import { backoffMs, type Clock, Fault, type Rng } from "@ultracloud/base";
import {
  BootstrapDeployer,
  type Handover,
  type PublicKey,
  readHandover,
  writeHandover,
  writeWhole,
} from "@ultracloud/bootstrap";
import { stringify } from "smol-toml";
import type { FirstBootConfig } from "./config.ts";
import { agentConfig, agentFiles } from "./domain/agent_config.ts";
import { certificateRequest, ownKey } from "./keys.ts";

export interface FirstBootDeps {
  readonly clock: Clock;
  readonly rng: Rng;
  readonly say: (text: string) => void;
}

/**
 * Makes the node's agents somebody: a key for each, whose public half the deployer takes against the bootstrap token, a
 * first certificate, and the trust file. Then the token is forgotten. It may be repeated until it has ended: keys stay,
 * and the token goes last. Answers false when there was nothing to do.
 */
export async function runFirstBoot(
  config: FirstBootConfig,
  deps: FirstBootDeps,
  signal: AbortSignal,
): Promise<boolean> {
  const { clock, rng, say } = deps;
  const handover = await readHandover(config.handoverDir);
  if (handover.bootstrap_token === undefined) return false;
  const backoff = { baseMs: config.retryMsMin, maxMs: config.retryMsMax, tries: Infinity };
  // Without an end: the deployer may be restarting, and what a node brought is believed elsewhere a second or two later.
  for (let attempt = 1;; attempt++) {
    try {
      await join(config, handover, deps, signal);
      break;
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof Fault)) throw error;
      const pauseMs = backoffMs(backoff, Math.min(attempt, 16), rng);
      say(`${error.message} [${error.code}]; again in ${Math.round(pauseMs / 1000)} s`);
      await clock.sleep(pauseMs, signal);
    }
  }
  const { bootstrap_token: _, ...rest } = handover;
  await writeHandover(config.handoverDir, rest);
  return true;
}

async function join(
  config: FirstBootConfig,
  { node, cluster_id: clusterId, deployer_url: url, bootstrap_token: token, ca_pem: caPem }: Handover,
  { clock }: FirstBootDeps,
  signal: AbortSignal,
): Promise<void> {
  const { credentialsDir, agents } = config;
  using deployer = new BootstrapDeployer({ url, token, caPem });
  const fileOf = (agent: string, name: keyof typeof agentFiles) => `${credentialsDir}/${agent}/${agentFiles[name]}`;
  const identities: Record<string, PublicKey> = {};
  for (const agent of agents) {
    await Deno.mkdir(`${credentialsDir}/${agent}`, { recursive: true, mode: 0o700 });
    identities[agent] = await ownKey(fileOf(agent, "key"), { clusterId, agent, node });
  }
  const identity = await deployer.identity(node, identities, signal);
  await writeWhole(`${credentialsDir}/trust.json`, JSON.stringify(identity.trust, null, 2) + "\n");
  for (const agent of agents) {
    const signer = await createWorkloadSigner({ clusterId, name: agent, keyFile: fileOf(agent, "key") }, { clock });
    const { csrPem, keyPem } = await certificateRequest(nodeSvcId(clusterId, agent, node));
    const authorization = await signer.authorization("iam")();
    const issued = await deployer.certificate(node, { csrPem, authorization }, signal);
    await writeWhole(fileOf(agent, "certKey"), keyPem);
    await writeWhole(fileOf(agent, "cert"), issued.certificate_pem);
    await writeWhole(fileOf(agent, "authorities"), issued.authorities_pem);
  }
  const own = { node, cluster_id: clusterId, peers: identity.peers };
  await writeWhole(
    `${credentialsDir}/nix-agent/config.toml`,
    stringify(agentConfig(own, credentialsDir, config.agent)),
  );
}

import { backoffMs, type Clock, Fault, fault, type Rng } from "@ultracloud/base";
import {
  BootstrapDeployer,
  type Handover,
  type NodeCredentials,
  readHandover,
  writeHandover,
  writeWhole,
} from "@ultracloud/bootstrap";
import { stringify } from "smol-toml";
import type { FirstBootConfig } from "./config.ts";
import { agentConfig, filesMissing } from "./domain/agent_config.ts";

export interface FirstBootDeps {
  readonly clock: Clock;
  readonly rng: Rng;
  readonly say: (text: string) => void;
}

/**
 * Exchanges the bootstrap token for the credentials of the node's agent, and forgets the token. It may be repeated until
 * it has ended: the token goes last. Answers false when there was nothing to do.
 */
export async function runFirstBoot(
  config: FirstBootConfig,
  deps: FirstBootDeps,
  signal: AbortSignal,
): Promise<boolean> {
  const handover = await readHandover(config.handoverDir);
  if (handover.bootstrap_token === undefined) return false;
  const credentials = await fetchCredentials(config, handover, deps, signal);
  const names = Object.keys(credentials.files);
  for (const dir of ["", "/nix-agent"]) {
    await Deno.mkdir(`${config.credentialsDir}${dir}`, { recursive: true, mode: 0o700 });
  }
  for (const [name, text] of Object.entries(credentials.files)) {
    const slash = name.indexOf("/");
    if (slash > 0) {
      await Deno.mkdir(`${config.credentialsDir}/${name.slice(0, slash)}`, { recursive: true, mode: 0o700 });
    }
    await writeWhole(`${config.credentialsDir}/${name}`, text);
  }
  const agent = agentConfig(credentials, config.credentialsDir, names, config.agent);
  await writeWhole(`${config.credentialsDir}/nix-agent/config.toml`, stringify(agent));
  const { bootstrap_token: _, ...rest } = handover;
  await writeHandover(config.handoverDir, rest);
  return true;
}

/** Asks until the deployer gives them: it may be restarting, or the operator still preparing them. */
async function fetchCredentials(
  config: FirstBootConfig,
  { node, deployer_url: url, bootstrap_token: token, ca_pem: caPem }: Handover,
  { clock, rng, say }: FirstBootDeps,
  signal: AbortSignal,
): Promise<NodeCredentials> {
  using deployer = new BootstrapDeployer({ url, token, caPem });
  const backoff = { baseMs: config.retryMsMin, maxMs: config.retryMsMax, tries: Infinity };
  for (let attempt = 1;; attempt++) {
    try {
      const credentials = await deployer.credentials(node, signal);
      if (credentials.node !== node) {
        throw fault("invalid_argument", "answer_invalid", `Cannot take credentials of ${credentials.node} for ${node}`);
      }
      const missing = filesMissing(Object.keys(credentials.files));
      if (missing === undefined) return credentials;
      throw fault("failed_precondition", "credentials_missing", `Cannot use the credentials of ${node}: ${missing}`);
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof Fault)) throw error;
      const pauseMs = backoffMs(backoff, Math.min(attempt, 16), rng);
      say(`${error.message} [${error.code}]; again in ${Math.round(pauseMs / 1000)} s`);
      await clock.sleep(pauseMs, signal);
    }
  }
}

import { backoffMs, type Clock, Fault, fault, type Rng } from "@ultracloud/base";
import {
  BootstrapDeployer,
  type BootstrapParameters,
  type EnrolledAnswer,
  fetchAuthority,
  type Marks,
  must,
  type Run,
} from "@ultracloud/bootstrap";
import { failureMarkers, identityOf, type InstallPlan, type MarkerName, markerNode } from "@ultracloud/cluster-state";
import type { InstallerConfig } from "./config.ts";
import { chooseDisk, prepareDisk } from "./disk.ts";
import { lookAtMachine, type Machine } from "./facts.ts";
import { cacheOf, copyClosure, finishSystem } from "./system.ts";

/** A deployer that answers no marker for this long is not waited for. */
const markerTimeoutMs = 10_000;
/** How often an unknown machine asks whether it was approved. */
const pendingMs = 10_000;

export interface InstallDeps {
  readonly run: Run;
  readonly marks: Marks;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly version: string;
  readonly freshId: string;
  readonly say: (text: string) => void;
}

/** Thrown by a step: which one, and why. */
class StepFailed extends Error {
  override readonly name = "StepFailed";
  readonly step: MarkerName;

  constructor(step: MarkerName, cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
    this.step = step;
  }

  get code(): string {
    return this.cause instanceof Fault ? this.cause.code : "internal";
  }
}

async function step<T>(name: MarkerName, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw error instanceof StepFailed ? error : new StepFailed(name, error);
  }
}

/**
 * Installs the machine, however often it takes: a failed attempt is shown, and begun again from the phone-home after a
 * pause, as the cause (a cache that is down, a token that was rotated, a plan that was wrong) may have been mended
 * meanwhile. Every step may be repeated on what an earlier attempt, or an earlier boot, has left. Returns when the
 * machine is restarting.
 */
export async function install(
  config: InstallerConfig,
  parameters: BootstrapParameters,
  deps: InstallDeps,
  signal: AbortSignal,
): Promise<void> {
  const { marks, clock, rng, say } = deps;
  const backoff = { baseMs: config.retryMsMin, maxMs: config.retryMsMax, tries: Infinity };
  let shown = "";
  for (let attempt = 1;; attempt++) {
    try {
      await attemptInstall(config, parameters, deps, signal);
      return;
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof StepFailed)) throw error;
      const said = `${error.code}: ${error.message}`;
      // The same failure again is news to nobody; the console has every attempt.
      if (`${error.step} ${error.code}` !== shown) marks.show(failureMarkers[error.step], said);
      shown = `${error.step} ${error.code}`;
      const pauseMs = backoffMs(backoff, Math.min(attempt, 16), rng);
      say(`attempt ${attempt} failed: ${said}; again in ${Math.round(pauseMs / 1000)} s`);
      await clock.sleep(pauseMs, signal);
    }
  }
}

/** One attempt, from the look at the machine to its restart. */
async function attemptInstall(
  config: InstallerConfig,
  parameters: BootstrapParameters,
  deps: InstallDeps,
  signal: AbortSignal,
): Promise<void> {
  const { marks } = deps;
  const machine = await step("pre-install.boot", () => lookAtMachine(config, deps));
  if (marks.node === "") {
    marks.node = markerNode(parameters.node_id ?? identityOf(machine.facts));
    marks.show("pre-install.boot");
  }
  const caPem = await step("pre-install.phone-home.complete", () => authorityOf(parameters, signal));
  const { deployer_url: url, bootstrap_token: token } = parameters;
  using deployer = new BootstrapDeployer({ url, token, caPem });
  const enrolled = await step(
    "pre-install.phone-home.complete",
    () => phoneHome(config, parameters, { deployer, machine }, deps, signal),
  );
  marks.node = enrolled.node;
  marks.postBy((marker) => deployer.marker(marker, AbortSignal.any([signal, AbortSignal.timeout(markerTimeoutMs)])));
  marks.show("pre-install.phone-home.complete");

  const bundle = await step("install.bundle-downloaded", () => fetchBundle(deployer, enrolled, signal));
  marks.show("install.bundle-downloaded", bundle === undefined ? "the deployer has none" : "");

  const { plan, cache, system } = await step("install.disko.complete", async () => {
    const plan = planOf(enrolled);
    const cache = cacheOf(enrolled, parameters.binary_cache_url);
    // What the disk looks like now counts, not what it was when the deployer was asked.
    const now = await lookAtMachine(config, deps);
    const disk = chooseDisk(enrolled.node, plan, now);
    deps.say(`writing ${plan.target_disk_by_id} (${disk.device.path}, ${disk.bytes_count} bytes)`);
    await prepareDisk(config, { node: enrolled.node, plan, disk }, deps.run);
    return { plan, cache, system: systemOf(plan, enrolled) };
  });
  marks.show("install.disko.complete", plan.target_disk_by_id);

  await step("install.nixos-install.complete", async () => {
    await copyClosure(config, { cache, system }, deps.run, signal);
    await finishSystem(config, {
      system,
      cache,
      enrolled,
      hostname: parameters.hostname ?? enrolled.hostname,
      deployerUrl: url,
      token,
      caPem,
      mark: { node: enrolled.node, machine_id: machine.facts.machine_id },
      bundle,
    }, deps.run);
  });
  marks.show("install.nixos-install.complete", system);

  await step("reboot", async () => {
    marks.show("reboot");
    await marks.settled();
    const [program, ...args] = config.rebootCommand;
    await must(deps.run, "reboot_failed", program!, args);
  });
}

async function authorityOf(parameters: BootstrapParameters, signal: AbortSignal): Promise<string | undefined> {
  const { ca_cert_url: url, ca_sha256: sha256 } = parameters;
  if (url !== undefined) return await fetchAuthority(url, sha256, signal);
  if (sha256 === undefined) return undefined;
  throw fault("invalid_argument", "parameters_invalid", "Cannot pin a CA without ultracloud.ca_cert_url");
}

/** Asks until the machine is somebody: an unknown one waits here for its approval, and installs nothing meanwhile. */
async function phoneHome(
  config: InstallerConfig,
  parameters: BootstrapParameters,
  o: { readonly deployer: BootstrapDeployer; readonly machine: Machine },
  { marks, clock, say }: InstallDeps,
  signal: AbortSignal,
): Promise<EnrolledAnswer> {
  const { facts } = o.machine;
  const body = { node_id: parameters.node_id ?? "", hostname: parameters.hostname ?? "", facts };
  for (let waits = 0;; waits++) {
    const answer = await o.deployer.phoneHome(body, signal);
    if (answer.status === "enrolled") return answer;
    if (waits === 0) marks.show("pre-install.phone-home.pending", answer.reason);
    say(`waiting for approval as ${answer.machine}: ${answer.reason}`);
    await clock.sleep(Math.min(pendingMs, config.retryMsMax), signal);
  }
}

async function fetchBundle(
  deployer: BootstrapDeployer,
  { node, bundle, bundle_public_key: key }: EnrolledAnswer,
  signal: AbortSignal,
): Promise<Uint8Array | undefined> {
  return bundle === undefined ? undefined : await deployer.bundle(node, bundle, key, signal);
}

function planOf({ node, install_plan: plan, install_refused: refused }: EnrolledAnswer): InstallPlan {
  if (refused !== undefined) throw fault("failed_precondition", refused.code, refused.message);
  if (plan !== undefined) return plan;
  throw fault("failed_precondition", "no_plan", `Cannot install ${node}: the deployer gives no plan`);
}

function systemOf({ target_system: system }: InstallPlan, { node }: EnrolledAnswer): string {
  if (system !== undefined) return system;
  throw fault("failed_precondition", "no_system", `Cannot install ${node}: its plan names no closure`);
}

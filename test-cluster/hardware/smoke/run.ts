import { type Clock, Fault } from "@ultracloud/base";
import {
  bootOnceFromMedia,
  discover,
  type DiscoveredSystem,
  ejectMedia,
  insertMedia,
  type MediaSlot,
  openTransport,
  readLogs,
  Redfish,
  resetSystem,
} from "../redfish/mod.ts";
import type { BmcPlan, Plan } from "./requirements.ts";
import type { RunDir } from "./run_dir.ts";
import { isOurImage, serveIso } from "./serve_iso.ts";
import { openSiteImage } from "./site_iso.ts";
import { type NodeRecord, readNodeRecord, SerialTail } from "./sources.ts";
import { writeStick } from "./usb.ts";
import { MarkerWatch, type Verdict } from "./watch.ts";

/** What a run is given besides its plan. */
export interface RunDeps {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** A line for the person who waits. */
  readonly say: (line: string) => void;
  readonly keepMedia: boolean;
}

/** A console is a file and costs nothing to look at; each look at the deployer is a call. */
const serialPollMs = 500;
const recordPollMs = 5_000;

/** Calls `run.say` and keeps the line with its time. */
function teller(run: RunDir, deps: RunDeps): (line: string) => Promise<void> {
  return async (line) => {
    deps.say(run.masked(line));
    await run.append("run.log", `${new Date(deps.clock.nowMs()).toISOString()} ${line}`);
  };
}

/** Logs in at the BMC of a plan. */
export async function openBmc(bmc: BmcPlan, deps: Pick<RunDeps, "clock" | "signal">): Promise<Redfish> {
  const { address, credentials, auth } = bmc;
  return await Redfish.open({ credentials, auth, signal: deps.signal }, {
    transport: openTransport(address),
    clock: deps.clock,
  });
}

/**
 * Installs one machine: the image goes to its BMC or stick, the machine is started, and its markers are watched to the
 * end. Answers the verdict; a fault of the way there is thrown. Whatever happens, the image is taken out again.
 */
export async function runPlan(plan: Plan, run: RunDir, deps: RunDeps): Promise<Verdict> {
  const say = teller(run, deps);
  const image = await openSiteImage(plan.iso, plan.cmdline);
  const sources = await openSources(plan, deps);
  if (plan.transport.kind === "usb") {
    await say(`writing ${plan.transport.device}`);
    const sha256 = await writeStick(image, plan.transport.device, deps.signal);
    await run.setStatus({ media_sha256: plan.cmdline === undefined ? sha256 : "depends on the token" });
    await say(`${plan.transport.device} reads back as it was written; boot the machine from it`);
    return await watch(plan, run, deps, sources, say);
  }
  const { transport } = plan;
  await using served = "serve" in transport.image ? serveIso(image, run.id, transport.image.serve) : undefined;
  const url = served?.url ?? (transport.image as { url: string }).url;
  // Its path is what keeps others of the network from the token within.
  if (served !== undefined) run.hide(new URL(url).pathname.split("/")[1]!);
  await using redfish = await openBmc(transport, deps);
  const found = await discover(redfish, transport.system);
  await keepSystem(run, found);
  await say(
    `found ${found.manufacturer} ${found.model} (${found.serial}) at ${found.path}, ${found.slots.length} drives`,
  );
  const slot = await insertMedia(redfish, found.slots, {
    image: url,
    ours: isOurImage,
    attachTimeoutMs: transport.attachTimeoutMs,
    say: (line) => void say(line),
  });
  try {
    await run.setStatus({ media_slot: slot.path });
    await say(`the image is in ${slot.path}`);
    await say(`boots once from it: ${await bootOnceFromMedia(redfish, found)}`);
    const types = await resetSystem(redfish, found);
    await say(`started by ${types.join(", ")}`);
    return await watch(plan, run, deps, sources, say);
  } finally {
    await putAway(transport, found, slot, run, deps, say);
    if (served !== undefined) await run.setStatus({ iso_bytes_sent: served.sentBytes() });
  }
}

async function keepSystem(run: RunDir, found: DiscoveredSystem): Promise<void> {
  await run.write("bmc-system.json", JSON.stringify(found, null, 2));
}

/** The image out, the BMC's logs kept. With a login of its own: the run's may be over, or its signal given. */
async function putAway(
  bmc: BmcPlan,
  found: DiscoveredSystem,
  slot: MediaSlot,
  run: RunDir,
  deps: RunDeps,
  say: (line: string) => Promise<void>,
): Promise<void> {
  try {
    await using redfish = await openBmc(bmc, { clock: deps.clock, signal: AbortSignal.timeout(putAwayTimeoutMs) });
    await run.write("bmc-logs.json", JSON.stringify(await readLogs(redfish, found), null, 2));
    if (deps.keepMedia) {
      await run.setStatus({ media_ejected: false });
      return await say(`the image stays in ${slot.path}, as asked`);
    }
    await ejectMedia(redfish, slot);
    await run.setStatus({ media_ejected: true });
    await say(`${slot.path} is empty again`);
  } catch (error) {
    // The verdict of the run stands; a drive that keeps its image is told, as it holds a token.
    await run.setStatus({ media_ejected: false });
    await say(`cannot put the image away: ${error instanceof Error ? error.message : error}`);
  }
}

const putAwayTimeoutMs = 60_000;

interface Sources {
  readonly serial: SerialTail | undefined;
  readonly record: (() => Promise<NodeRecord>) | undefined;
}

/** What is there already belongs to an earlier installation: only what comes from now on counts. */
async function openSources({ serialLog, ucContext, node }: Plan, deps: RunDeps): Promise<Sources> {
  const size = serialLog === undefined ? 0 : await Deno.stat(serialLog).then((info) => info.size, () => 0);
  let afterMs = 0;
  let record: (() => Promise<NodeRecord>) | undefined;
  if (ucContext !== undefined) {
    afterMs = (await readNodeRecord(node, ucContext, 0)).newestMs;
    record = async () => {
      deps.signal.throwIfAborted();
      const read = await readNodeRecord(node, ucContext, afterMs);
      afterMs = Math.max(afterMs, read.newestMs);
      return read;
    };
  }
  return { serial: serialLog === undefined ? undefined : new SerialTail(serialLog, size), record };
}

async function watch(
  plan: Plan,
  run: RunDir,
  deps: RunDeps,
  sources: Sources,
  say: (line: string) => Promise<void>,
): Promise<Verdict> {
  const { clock, signal } = deps;
  const markers = new MarkerWatch(plan.node);
  let told = 0;
  let recordAt = clock.monotonicMs();
  let lastMs = clock.monotonicMs();
  for (;;) {
    const nowMs = clock.nowMs();
    if (sources.serial !== undefined) {
      for (const line of await sources.serial.poll()) markers.take(line, "serial", nowMs);
    }
    if (sources.record !== undefined && clock.monotonicMs() >= recordAt) {
      recordAt = clock.monotonicMs() + recordPollMs;
      try {
        for (const line of (await sources.record()).markers) markers.take(line, "deployer", nowMs);
      } catch (error) {
        // A deployer that is restarting answers again; the time for the next marker goes on.
        if (!(error instanceof Fault)) throw error;
        await say(error.message);
      }
    }
    for (const marker of markers.seen.slice(told)) {
      await say(`${marker.name}${marker.detail === "" ? "" : `: ${marker.detail}`} (${marker.source})`);
      lastMs = clock.monotonicMs();
    }
    if (markers.seen.length > told) {
      told = markers.seen.length;
      await run.write("markers.json", JSON.stringify(markers.seen, null, 2));
      await run.setStatus({ last_marker: markers.seen.at(-1)!.name, attempts: Math.max(1, markers.attempts) });
    }
    const verdict = markers.verdict();
    if (verdict.state !== "waiting") return verdict;
    if (clock.monotonicMs() - lastMs > plan.markerTimeoutMs) {
      const reason = `it was not seen within ${plan.markerTimeoutMs / 1000} s${
        markers.pending ? "; the machine waits for approval" : ""
      }`;
      return { state: "failed", marker: verdict.next, reason };
    }
    await clock.sleep(serialPollMs, signal);
  }
}

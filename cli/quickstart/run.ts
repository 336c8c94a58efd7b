import type { DescService } from "@bufbuild/protobuf";
import { Fault, fault } from "@ultracloud/base";
import { loadFleet, portTaken, prepareStack, type Stack } from "@ultracloud/launch";
import { toFault } from "@ultracloud/rpc";
import { statusOf } from "../commands/system.ts";
import { examineHost, type HostReport } from "../doctor/mod.ts";
import { defaultPorts } from "../frame/contexts.ts";
import type { Io } from "../frame/io.ts";
import { buildTinyImage } from "../image/mod.ts";
import {
  createNetwork,
  createProject,
  createVm,
  deleteVm,
  fetchGuest,
  forbiddenPortVerdict,
  type HttpProof,
  importImage,
  names,
  projectName,
  waitForMarker,
  waitForNode,
} from "./cloud.ts";
import { claimHome, type QuickstartHome, releaseHome, takeLock, writeState } from "./home.ts";
import { type Fabric, makeFabric, namespaceOf } from "./fabric.ts";
import { createWayOut, guestScript, proveOutside, triedPorts } from "./outside.ts";
import { installMissing } from "./packages.ts";
import { componentsOf, profiles } from "./profiles.ts";
import { openSession } from "./session.ts";
import { createProgress } from "./progress.ts";
import { networkOf, type QuickstartResult, summary, surfaceManifest } from "./report.ts";

/** Required components of the profile single-node dev, in the order people think of them. */
export const singleNodeComponents = profiles["single-node-dev"].required;
const clusterId = "quickstart";
const contextName = "quickstart";
/** Generous: a cold start compiles every component on a slow disk. */
const readyTimeoutMs = 60_000;
const guestTimeoutMs = 90_000;

export interface QuickstartOptions {
  readonly root: string;
  readonly keep: boolean;
  /** Added to every default port. */
  readonly portOffset: number;
  /** Optional components of the profile to start beside the required ones. */
  readonly with: readonly string[];
  /** What carries the network of guests; auto: OVN where it can, else user networking. */
  readonly engine: "auto" | "ovn" | "user";
}

/** Ports of every listener of the profile. */
export function portsOf(offset: number): Record<string, number> {
  const ports: Record<string, number> = {
    "chainfire.peer": 7101 + offset,
    "flaredb.peer": 7111 + offset,
    "net-agent.rpc": 7131 + offset,
    "net-agent.northbound": 7133 + offset,
    "net-agent.southbound": 7134 + offset,
    // Leads to the page of the guest on OVN, whose addresses are in a namespace of their own.
    "gate.page": 7132 + offset,
  };
  for (const [name, port] of Object.entries(defaultPorts)) ports[`${name}.rpc`] = port + offset;
  return ports;
}

/**
 * Starts a cloud on this machine, boots a VM through its public APIs, proves it answers, and takes everything down
 * again unless it is to be kept. Whatever happens, processes, ports and guests of a cloud that is not kept are gone
 * when this returns.
 */
export async function runQuickstart(
  options: QuickstartOptions,
  home: QuickstartHome,
  io: Io,
): Promise<QuickstartResult> {
  const built = new Set((await loadFleet(options.root)).keys());
  // What this release does not have is said before anything is installed or ended.
  componentsOf(profiles["single-node-dev"], options.with, built);
  using _lock = await takeLock(home);
  const started = new Date();
  const begin = performance.now();
  const progress = createProgress(io.err, io.interactive);
  const runDir = `${home.root}/${started.toISOString().replaceAll(/[:.]/g, "-")}`;
  await Deno.mkdir(runDir, { recursive: true });
  const result: QuickstartResult = {
    success: false,
    profile: profiles["single-node-dev"].name,
    startedAt: started.toISOString(),
    durationMs: 0,
    kept: false,
    accelerator: "",
    components: [],
    steps: progress.steps,
    notDone: [],
  };
  let stack: Stack | undefined;
  let failure: unknown;
  try {
    const claimed = await claimHome(home);
    if (claimed.ended > 0) progress.say(`Ended ${claimed.ended} processes of a quickstart that was killed`);
    stack = await bringUp(options, { home, runDir, io, progress, result, built });
  } catch (error) {
    failure = error;
  }
  progress.finish();
  if (failure === undefined && options.keep && stack) {
    stack.detach();
    writeState(home, "kept");
    result.kept = true;
  } else {
    if (stack) {
      progress.step("take everything down");
      await copyLogs(stack, runDir);
      await stack.stopAll();
    }
    await releaseUnlessRefused(home, failure);
    progress.finish();
  }
  result.success = failure === undefined && result.notDone.length === 0;
  result.durationMs = Math.round(performance.now() - begin);
  if (failure !== undefined) {
    const known = failure instanceof Fault
      ? failure
      : io.signal.aborted
      ? fault("cancelled", "interrupted", "Stopped by the person")
      : toFault(failure);
    result.error = { code: known.code, message: known.message };
  }
  if (failure instanceof Fault && failure.code === "quickstart_kept") {
    // Nothing ran: `latest` still tells of the run that is kept.
    await Deno.remove(runDir, { recursive: true });
    throw failure;
  }
  await writeResult(home, runDir, result);
  if (failure !== undefined) throw failure;
  return result;
}

/** What one run works with. */
interface Run {
  readonly home: QuickstartHome;
  readonly runDir: string;
  readonly io: Io;
  readonly progress: ReturnType<typeof createProgress>;
  readonly result: QuickstartResult;
  /** Components that this release has. */
  readonly built: ReadonlySet<string>;
}

async function bringUp(options: QuickstartOptions, run: Run): Promise<Stack> {
  const { home, runDir, io, progress, result, built } = run;
  const { signal } = io;
  const ports = portsOf(options.portOffset);
  progress.step("examine the host");
  const taken = Object.values(ports).filter((port) => portTaken("127.0.0.1", port));
  if (taken.length > 0) {
    throw fault(
      "failed_precondition",
      "ports_taken",
      `Cannot listen on 127.0.0.1 port ${taken.join(", ")} as another program does: wanted --port-offset N`,
    );
  }
  const report = await examineHost({ workRoot: home.workRoot, ports: [] });
  progress.step("packages");
  const canRunVms = await installMissing(report, progress, signal);
  signal.throwIfAborted();

  progress.step("prepare keys and configuration");
  const fabric = await chooseFabric(options, report, home, ports, progress);
  const components = componentsOf(
    profiles["single-node-dev"],
    [...options.with, ...fabric ? ["net-agent"] : []],
    built,
  );
  const stack = await prepareStack({
    root: options.root,
    dataDir: home.dataDir,
    // Without QEMU the worker never becomes ready; everything else works.
    components: canRunVms ? components : components.filter((name) => name !== "vm-agent"),
    ports,
    clusterId,
    ...(fabric
      ? { overrides: fabric.overrides, enter: Object.fromEntries(fabric.insiders.map((name) => [name, fabric.enter])) }
      : {}),
  });
  try {
    for (const gate of await fabric?.start(stack) ?? []) gate.unref();
    // The image is built while the components start: neither needs the other.
    progress.step("start components and build the guest image");
    const [image] = await Promise.all([
      canRunVms
        ? buildTinyImage({ cacheDir: `${home.cacheDir}/images`, onProgress: (text) => progress.note(text), signal })
        : undefined,
      stack.startAll({
        timeoutMs: readyTimeoutMs,
        signal,
        onReady: (name, ms) => progress.note(`${name} is ready after ${(ms / 1000).toFixed(1)} s`),
      }),
    ]);
    progress.step("log in");
    const quiet: Io = { ...io, interactive: false, err: () => {} };
    const session = await openSession(stack, {
      components,
      clusterId,
      contextName,
      contextsFile: home.contextsFile,
      project: projectName,
      quickstartDir: home.root,
    }, quiet);
    progress.step("create organisation and project");
    await createProject(session);
    progress.step("create network, subnet and security group");
    result.network = networkOf(await createNetwork(session));
    const natIp = fabric && await createWayOut(session);
    result.components = await statusOf(session);
    await writeSurface(stack, runDir);
    if (image === undefined) {
      result.notDone = [`no VM, as packages are missing: ${report.installCommand}`];
      return stack;
    }
    progress.step("import the guest image");
    await importImage(session, image, (sent, total) => progress.note(`${Math.round(sent / total * 100)}%`));
    progress.step("wait for the worker");
    const node = await waitForNode(session, readyTimeoutMs);
    result.accelerator = node.accelerator;
    progress.step("create and start the VM");
    const vm = await createVm(session, guestTimeoutMs, fabric ? guestScript : "");
    progress.step("wait for the guest's marker on its serial console");
    const marker = await waitForMarker(session, guestTimeoutMs);
    const ip = vm.nics[0]?.ipAddress ?? "";
    if (!marker.includes(`ip=${ip} `)) {
      throw fault("internal", "address_wrong", `Cannot trust DHCP: the guest says ${marker}, wanted ip=${ip}`);
    }
    let page: HttpProof;
    if (fabric && natIp !== undefined) {
      progress.step("go out by NAT, come in by floating IP, try a forbidden port");
      const pageUrl = `http://127.0.0.1:${ports["gate.page"]}/`;
      const proof = await proveOutside(session, fabric, stack, vm, { natIp, pageUrl, timeoutMs: guestTimeoutMs });
      page = proof.page;
      result.forbiddenPort = proof.forbidden;
      result.outside = { natIp: proof.natIp, floatingIp: proof.floatingIp, namespace: fabric.namespace };
    } else {
      progress.step("fetch the guest's page");
      page = await fetchGuest(vm, guestTimeoutMs, signal);
      result.forbiddenPort = forbiddenPortVerdict(vm);
    }
    result.vm = {
      name: vm.meta?.name ?? "",
      id: vm.meta?.id ?? "",
      ip,
      url: page.url,
      httpStatus: page.status,
      marker,
    };
    result.components = await statusOf(session);
    if (!options.keep) {
      progress.step("delete the VM");
      await deleteVm(session, guestTimeoutMs);
    }
    return stack;
  } catch (error) {
    progress.step("take everything down");
    await copyLogs(stack, runDir);
    await stack.stopAll();
    throw error;
  }
}

/** Where tenant networks on OVN would be; undefined: user networking, and the person is told why. */
async function chooseFabric(
  options: QuickstartOptions,
  report: HostReport,
  home: QuickstartHome,
  ports: Readonly<Record<string, number>>,
  progress: ReturnType<typeof createProgress>,
): Promise<Fabric | undefined> {
  if (options.engine === "user") return undefined;
  let why = report.whyNoOvn;
  if (why === "") {
    try {
      const namespace = await namespaceOf(home);
      return await makeFabric({ root: options.root, namespace, ports, guestPorts: triedPorts });
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      why = `OVN needs a network namespace: ${error.message}`;
    }
  }
  if (options.engine === "ovn") {
    throw fault("failed_precondition", "engine_impossible", `Cannot use the network engine ovn here: ${why}`);
  }
  progress.say(`Network engine user: ${why}`);
  return undefined;
}

async function releaseUnlessRefused(home: QuickstartHome, failure: unknown): Promise<void> {
  // A kept cloud that refused this run is somebody's: it stays as it is.
  if (failure instanceof Fault && failure.code === "quickstart_kept") return;
  await releaseHome(home);
}

async function copyLogs(stack: Stack, to: string): Promise<void> {
  await Deno.mkdir(`${to}/log`, { recursive: true });
  for (const name of [...singleNodeComponents, "net-agent", "gate-in", "gate-out"]) {
    await Deno.copyFile(stack.logFile(name), `${to}/log/${name}.log`).catch(() => {});
  }
}

async function writeResult(home: QuickstartHome, runDir: string, result: QuickstartResult): Promise<void> {
  await Deno.writeTextFile(`${runDir}/result.json`, JSON.stringify(result, null, 2) + "\n");
  const latest = `${home.root}/latest`;
  await Deno.remove(`${latest}.new`).catch(() => {});
  await Deno.symlink(runDir.slice(runDir.lastIndexOf("/") + 1), `${latest}.new`);
  await Deno.rename(`${latest}.new`, latest);
}

async function writeSurface(stack: Stack, runDir: string): Promise<void> {
  const packages = await Promise.all([
    import("@ultracloud/proto/chainfire/v1"),
    import("@ultracloud/proto/flaredb/v1"),
    import("@ultracloud/proto/iam/v1"),
    import("@ultracloud/proto/prismnet/v1"),
    import("@ultracloud/proto/plasmavmc/v1"),
    import("@ultracloud/proto/vmagent/v1"),
  ]);
  const services = new Map<string, DescService[]>();
  singleNodeComponents.forEach((name, i) => {
    const exported = Object.values(packages[i]!) as { kind?: string }[];
    services.set(
      name,
      exported.filter((value): value is DescService & { kind: "service" } => value?.kind === "service"),
    );
  });
  const members = singleNodeComponents.map((name) => stack.member(name));
  await Deno.writeTextFile(
    `${runDir}/surface.json`,
    JSON.stringify(surfaceManifest(members, services), null, 2) + "\n",
  );
}

/** What to type next beside a kept cloud. */
export function nextCommands(): string {
  return [
    "Next, in this folder:",
    "  deno task uc status",
    `  deno task uc vm console ${names.vm}`,
    `  deno task uc vm create second --image ${names.image} --subnet ${names.subnet} --sg ${names.group}`,
    "  deno task uc vm list -o wide",
    "  deno task uc quickstart down",
  ].join("\n");
}

export { summary };

import { type Clock, Fault } from "@ultracloud/base";
import type { QmpClient } from "@ultracloud/qmp";
import { attachedNode, unlessAbsent } from "./devices.ts";
import { nbdNode } from "./domain/block.ts";
import type { MigrationProgress, MigrationRecord } from "./domain/migration.ts";
import { localVolumes } from "./domain/spec_parts.ts";
import { lookingMs } from "./domain/written_pages.ts";
import type { HostUser } from "./host_user.ts";
import type { Machine } from "./machine.ts";
import { addTlsKey, dropTlsKey, tlsCreds } from "./migration_tls.ts";
import type { Volumes } from "./volumes.ts";

/** Beyond what any host sends: no limit. */
const unlimited = 2 ** 40;
const jobPrefix = "mirror-";
/** How a VM ends on the worker that it has left. */
export const movedAway = { state: "stopped", reason: "moved to another worker" } as const;

/** Handed from a step to the loop around it. */
export interface StepDeps {
  readonly clock: Clock;
  readonly volumes: Volumes;
  readonly user: HostUser;
  readonly progress: (progress: MigrationProgress) => void;
  /** QEMU has said that the guest stands still and waits to be let go, and nothing else since. */
  readonly paused: boolean;
  /** What is to be durable soon, but is not waited for. */
  readonly later: (work: Promise<void>) => void;
}

interface QemuMigration {
  readonly status?: string;
  readonly ram?: { readonly transferred: number; readonly remaining: number; readonly total: number };
  readonly downtime?: number;
  readonly "total-time"?: number;
  readonly "cpu-throttle-percentage"?: number;
  readonly "error-desc"?: string;
}

/** A job as every command about jobs tells it; an error only once it is over. */
interface Job {
  readonly id: string;
  readonly status: string;
  readonly error?: string;
}

interface BlockJob {
  readonly device: string;
  readonly ready: boolean;
  readonly len: number;
  readonly offset: number;
  readonly error?: string;
}

/**
 * One look at a guest that leaves this worker, and what comes next: its local disks are copied until the copies follow
 * every write, the disks are stamped with the target's writer epoch, then its memory is sent; with the guest stopped the
 * copies are completed and the guest is let go. While it stands still nothing is written to disk and nothing asked that
 * QEMU has told: all that is downtime.
 */
export async function stepSource(machine: Machine, migration: MigrationRecord, deps: StepDeps): Promise<void> {
  const monitor = machine.live!.qemu.monitor;
  const disks = migration.storage === "mirror"
    ? machine.disks().filter((disk) => disk.source.kind === "file").map((disk) => disk.device)
    : [];
  const late = deps.clock.nowMs() > migration.deadlineAtMs;
  if (deps.paused && !migration.cancelled && !late && !migration.continued) {
    return await switchOver(machine, migration, disks, deps);
  }
  const now = await monitor.execute<QemuMigration>("query-migrate");
  const jobs = await mirrorJobs(monitor);
  deps.progress(progressOf(now, jobs));
  // Whatever anybody wants by now: the guest has left.
  if (now.status === "completed" && isSent(migration)) return await leave(machine, migration, now, deps);
  const begun = isUnderWay(now.status) || isSent(migration);
  // QEMU says so only of one that was let go, perhaps by an agent that died before it could note it.
  const continued = migration.continued || now.status === "device";
  if ((migration.cancelled || late) && !continued) {
    return await giveUp(machine, migration, deps, late ? "not over within the time given" : "cancelled");
  }
  const failedJob = jobs.find((job) => job.error !== undefined);
  if (failedJob && !continued) return await giveUp(machine, migration, deps, copyFailed(failedJob.device, failedJob));

  if (!begun) {
    try {
      const { psk } = migration.endpoints;
      const { run } = machine.record;
      if (psk !== undefined) await addTlsKey(monitor, machine.at!, run!.slot, { psk, endpoint: "client" }, deps.user);
      if (!await mirrorsReady(monitor, migration, disks, jobs)) return;
      await handOn(machine, migration, deps);
      await send(monitor, migration, run?.hardware.memoryBytes ?? machine.spec.memoryBytes);
    } catch (error) {
      // What QEMU refuses now it refuses again: a target that is not there, an export that is too small.
      if (!(error instanceof Fault && error.code === "qmp_error")) throw error;
      return await giveUp(machine, machine.record.migration!, deps, error.message);
    }
    // Not before: what a QEMU that took its guest in says until now is of that migration.
    return await machine.saveMigration({ ...machine.record.migration!, phase: "memory" });
  }
  if (now.status === "pre-switchover") return await switchOver(machine, migration, disks, deps);
  if (now.status === "failed" || now.status === "cancelled" || now.status === undefined || now.status === "none") {
    await giveUp(machine, migration, deps, now["error-desc"] ?? "the target is gone");
  }
}

/** Whether what QEMU says of a migration is about this one. */
function isSent({ phase }: MigrationRecord): boolean {
  return phase === "memory" || phase === "switchover";
}

/** Durable: from here on nobody starts this VM here with its old epoch again, wherever its guest will be. */
async function handOn(machine: Machine, migration: MigrationRecord, deps: StepDeps): Promise<void> {
  const epoch = migration.targetWriterEpoch ?? 0;
  if ((machine.record.writerEpoch ?? 0) < epoch) await machine.save({ writerEpoch: epoch });
  for (const volume of localVolumes(machine.spec)) await deps.volumes.stamp(volume.volumeId, epoch);
}

/** The guest stands still: completes the copies and lets it go. */
async function switchOver(
  machine: Machine,
  migration: MigrationRecord,
  disks: readonly string[],
  deps: StepDeps,
): Promise<void> {
  const monitor = machine.live!.qemu.monitor;
  const jobs = await completeMirrors(monitor, disks);
  const failed = jobs.find((job) => job.error !== undefined);
  if (failed) return await giveUp(machine, migration, deps, copyFailed(failed.id, failed));
  // Looked at again when the last has concluded.
  if (jobs.some((job) => job.status !== "concluded")) return;
  // QEMU takes commands in their order: this one is over before the guest goes.
  for (const { id } of jobs) deps.later(monitor.execute<void>("job-dismiss", { id }));
  const current = machine.record.migration!;
  if (migration.options?.hold && !current.released) {
    if (current.phase !== "switchover") await machine.saveMigration({ ...current, phase: "switchover" });
    return;
  }
  // Both were done when the memory was sent, unless the agent that sent it died then.
  await handOn(machine, current, deps);
  if (!isSent(current)) await machine.saveMigration({ ...machine.record.migration!, phase: "memory" });
  // Cancelled while the copies ended: the next look gives up.
  if (machine.record.migration!.cancelled) return;
  // Known at once; on disk soon. Until then QEMU is who knows.
  deps.later(machine.saveMigration({ ...machine.record.migration!, continued: true }));
  await monitor.execute("migrate-continue", { state: "pre-switchover" });
}

async function leave(machine: Machine, migration: MigrationRecord, now: QemuMigration, deps: StepDeps): Promise<void> {
  await machine.save({
    desired: "stopped",
    migration: {
      ...machine.record.migration!,
      phase: "completed",
      endpoints: { ...migration.endpoints, psk: undefined },
      downtimeMs: now.downtime ?? 0,
      totalMs: deps.clock.nowMs() - migration.startedAtMs,
    },
  });
  await machine.endAs(movedAway);
}

function copyFailed(id: string, job: { readonly error?: string }): string {
  return `the copy of ${id} failed: ${job.error}`;
}

/** Keeps the guest: ends everything of the migration and has the guest run as it did. */
async function giveUp(machine: Machine, migration: MigrationRecord, deps: StepDeps, reason: string): Promise<void> {
  const monitor = machine.live!.qemu.monitor;
  const { status } = await monitor.execute<QemuMigration>("query-migrate");
  if (isUnderWay(status)) {
    await monitor.execute("migrate_cancel");
    // Looked at again until QEMU has let go.
    return;
  }
  for (const job of await mirrorJobs(monitor)) {
    await monitor.execute("block-job-cancel", { device: job.device, force: true }).catch(unlessAbsent);
  }
  for (const { id, status } of await mirrorJobStates(monitor)) {
    if (status === "concluded") await monitor.execute("job-dismiss", { id });
  }
  if ((await mirrorJobs(monitor)).length > 0) return;
  for (const { device } of machine.disks()) {
    await monitor.execute("blockdev-del", { "node-name": mirrorNode(device) }).catch(unlessAbsent);
  }
  if (machine.at) await dropTlsKey(monitor, machine.at);
  if (machine.record.desired === "running") {
    await monitor.execute("cont");
    if (machine.live) machine.live.runState = { kind: "running" };
  }
  await machine.saveMigration({
    ...machine.record.migration!,
    phase: migration.cancelled ? "cancelled" : "failed",
    endpoints: { ...migration.endpoints, psk: undefined },
    reason,
    totalMs: deps.clock.nowMs() - migration.startedAtMs,
  });
}

/** Starts copies that do not run yet; true when all follow the guest's writes. */
async function mirrorsReady(
  monitor: QmpClient,
  migration: MigrationRecord,
  disks: readonly string[],
  jobs: readonly BlockJob[],
): Promise<boolean> {
  let ready = true;
  for (const device of disks) {
    const job = jobs.find((one) => one.device === jobPrefix + device);
    ready &&= job?.ready === true;
    if (job) continue;
    const uri = migration.endpoints.mirrors.find((mirror) => mirror.device === device)!.uri;
    const node = await attachedNode(monitor, device);
    if (!node) continue;
    await monitor.execute("blockdev-del", { "node-name": mirrorNode(device) }).catch(unlessAbsent);
    const target = nbdNode(mirrorNode(device), uri, false);
    // A target that is gone ends the copy at once, and with it the migration.
    const tls = migration.endpoints.psk === undefined ? {} : { "tls-creds": tlsCreds };
    await monitor.execute("blockdev-add", { ...target, ...tls, "reconnect-delay": 0 });
    await monitor.execute("blockdev-mirror", {
      "job-id": jobPrefix + device,
      device: node.node,
      target: mirrorNode(device),
      sync: "full",
      "auto-dismiss": false,
    });
  }
  return ready;
}

/** Tells the copies of a guest that stands still to come to their end; answers how far they are. */
async function completeMirrors(monitor: QmpClient, disks: readonly string[]): Promise<readonly Job[]> {
  if (disks.length === 0) return [];
  // Cancelling a copy that is ready leaves the target whole, and the guest on its own disk; one that ends already
  // refuses. QEMU answers in order.
  const told = disks.map((device) =>
    monitor.execute("block-job-cancel", { device: jobPrefix + device }).catch(() => {})
  );
  const jobs = await mirrorJobStates(monitor);
  await Promise.all(told);
  return jobs;
}

async function send(monitor: QmpClient, migration: MigrationRecord, memoryBytes: number): Promise<void> {
  const options = migration.options!;
  await setCapabilities(monitor, {
    events: true,
    "return-path": true,
    "pause-before-switchover": true,
    "auto-converge": options.autoConverge,
  });
  await monitor.execute("migrate-set-parameters", {
    "max-bandwidth": options.bandwidthBytesPerSecond || unlimited,
    "downtime-limit": options.maxDowntimeMs + lookingMs(memoryBytes),
    "cpu-throttle-initial": 20,
    "cpu-throttle-increment": 20,
    // Empty: none, whatever a migration before this one went by.
    "tls-creds": migration.endpoints.psk === undefined ? "" : tlsCreds,
  });
  await monitor.execute("migrate", { uri: migration.endpoints.stateUri });
}

/** Sets capabilities that this QEMU knows: they come and go between versions. */
export async function setCapabilities(
  monitor: { execute<T>(command: string, args?: Record<string, unknown>): Promise<T> },
  wanted: Readonly<Record<string, boolean>>,
): Promise<void> {
  const known = await monitor.execute<{ capability: string }[]>("query-migrate-capabilities");
  const capabilities = Object.entries(wanted)
    .filter(([name]) => known.some(({ capability }) => capability === name))
    .map(([capability, state]) => ({ capability, state }));
  await monitor.execute("migrate-set-capabilities", { capabilities });
}

async function mirrorJobs(monitor: QmpClient): Promise<BlockJob[]> {
  const jobs = await monitor.execute<(BlockJob & { type: string })[]>("query-block-jobs");
  return jobs.filter((job) => job.device.startsWith(jobPrefix));
}

async function mirrorJobStates(monitor: QmpClient): Promise<readonly Job[]> {
  return (await monitor.execute<Job[]>("query-jobs")).filter((job) => job.id.startsWith(jobPrefix));
}

function isUnderWay(status: string | undefined): boolean {
  return ["setup", "active", "pre-switchover", "device", "cancelling", "wait-unplug"].includes(status ?? "");
}

function mirrorNode(device: string): string {
  return `m-${device.slice(device.indexOf("_") + 1)}`;
}

function progressOf(now: QemuMigration, jobs: readonly BlockJob[]): MigrationProgress {
  const sum = (of: (job: BlockJob) => number) => jobs.reduce((total, job) => total + of(job), 0);
  return {
    memoryTransferredBytes: now.ram?.transferred ?? 0,
    memoryRemainingBytes: now.ram?.remaining ?? 0,
    memoryTotalBytes: now.ram?.total ?? 0,
    diskTransferredBytes: sum((job) => job.offset),
    diskTotalBytes: sum((job) => job.len),
    throttlePercent: now["cpu-throttle-percentage"] ?? 0,
  };
}

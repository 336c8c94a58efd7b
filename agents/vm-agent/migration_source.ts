import { type Clock, Fault } from "@ultracloud/base";
import type { QmpClient } from "@ultracloud/qmp";
import { attachedNode, unlessAbsent } from "./devices.ts";
import { nbdNode } from "./domain/block.ts";
import type { MigrationProgress, MigrationRecord } from "./domain/migration.ts";
import { localVolumes } from "./domain/spec_parts.ts";
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
}

interface QemuMigration {
  readonly status?: string;
  readonly ram?: { readonly transferred: number; readonly remaining: number; readonly total: number };
  readonly downtime?: number;
  readonly "total-time"?: number;
  readonly "cpu-throttle-percentage"?: number;
  readonly "error-desc"?: string;
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
 * every write, then its memory is sent; with the guest stopped the copies are completed, the disks are stamped with the
 * target's writer epoch, and the guest is let go.
 */
export async function stepSource(machine: Machine, migration: MigrationRecord, deps: StepDeps): Promise<void> {
  const monitor = machine.live!.qemu.monitor;
  const now = await monitor.execute<QemuMigration>("query-migrate");
  const jobs = await mirrorJobs(monitor);
  const disks = migration.storage === "mirror"
    ? machine.disks().filter((disk) => disk.source.kind === "file").map((disk) => disk.device)
    : [];
  deps.progress(progressOf(now, jobs));
  const begun = isUnderWay(now.status) || migration.phase === "memory" || migration.phase === "switchover";
  const late = deps.clock.nowMs() > migration.deadlineAtMs;
  if ((migration.cancelled || late) && !migration.continued) {
    return await giveUp(machine, migration, deps, late ? "not over within the time given" : "cancelled");
  }
  const failedJob = jobs.find((job) => job.error !== undefined);
  if (failedJob && !migration.continued) {
    return await giveUp(machine, migration, deps, `the copy of ${failedJob.device} failed: ${failedJob.error}`);
  }

  if (!begun) {
    try {
      const { psk } = migration.endpoints;
      const { run } = machine.record;
      if (psk !== undefined) await addTlsKey(monitor, machine.at!, run!.slot, { psk, endpoint: "client" }, deps.user);
      if (!await mirrorsReady(monitor, migration, disks, jobs)) return;
      await send(monitor, migration);
    } catch (error) {
      // What QEMU refuses now it refuses again: a target that is not there, an export that is too small.
      if (!(error instanceof Fault && error.code === "qmp_error")) throw error;
      return await giveUp(machine, migration, deps, error.message);
    }
    return await machine.saveMigration({ ...machine.record.migration!, phase: "memory" });
  }
  if (now.status === "pre-switchover") {
    if (!await mirrorsCompleted(monitor, jobs)) return;
    const current = machine.record.migration!;
    if (migration.options?.hold && !current.released) {
      if (current.phase !== "switchover") await machine.saveMigration({ ...current, phase: "switchover" });
      return;
    }
    // From here on the disks are the target's: nobody starts this VM here with its old epoch again.
    const epoch = migration.targetWriterEpoch ?? 0;
    for (const volume of localVolumes(machine.spec)) await deps.volumes.stamp(volume.volumeId, epoch);
    await machine.save({ writerEpoch: epoch, migration: { ...current, continued: true } });
    await monitor.execute("migrate-continue", { state: "pre-switchover" });
    return;
  }
  if (now.status === "completed") {
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
    return;
  }
  if (now.status === "failed" || now.status === "cancelled" || now.status === undefined || now.status === "none") {
    await giveUp(machine, migration, deps, now["error-desc"] ?? "the target is gone");
  }
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
  for (const job of await concludedJobs(monitor)) await monitor.execute("job-dismiss", { id: job.id });
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

/** Completes the copies of a guest that stands still; true when all have ended well. */
async function mirrorsCompleted(monitor: QmpClient, jobs: readonly BlockJob[]): Promise<boolean> {
  // Cancelling a copy that is ready leaves the target whole, and the guest on its own disk.
  for (const job of jobs) {
    if (job.ready) await monitor.execute("block-job-cancel", { device: job.device }).catch(() => {});
  }
  for (const job of await concludedJobs(monitor)) await monitor.execute("job-dismiss", { id: job.id });
  return (await mirrorJobs(monitor)).length === 0;
}

async function send(monitor: QmpClient, migration: MigrationRecord): Promise<void> {
  const options = migration.options!;
  await setCapabilities(monitor, {
    events: true,
    "return-path": true,
    "pause-before-switchover": true,
    "auto-converge": options.autoConverge,
  });
  await monitor.execute("migrate-set-parameters", {
    "max-bandwidth": options.bandwidthBytesPerSecond || unlimited,
    "downtime-limit": options.maxDowntimeMs,
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

async function concludedJobs(monitor: QmpClient): Promise<{ id: string }[]> {
  const jobs = await monitor.execute<{ id: string; status: string }[]>("query-jobs");
  return jobs.filter((job) => job.id.startsWith(jobPrefix) && job.status === "concluded");
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

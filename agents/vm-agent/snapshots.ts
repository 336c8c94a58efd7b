import { type Clock, Fault, fault, utf8 } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import type { QmpClient } from "@ultracloud/qmp";
import { z } from "zod";
import { attachedNode, nodeNames, unlessAbsent } from "./devices.ts";
import { type Disks, virtualSizeOf } from "./disks.ts";
import { type Disk, qcow2Node } from "./domain/block.ts";
import { isOver } from "./domain/migration.ts";
import { checkId } from "./domain/volume_spec.ts";
import { removeAll, sizeOf, syncDir, writeDurable } from "./files.ts";
import type { HostUser } from "./host_user.ts";
import type { Machine } from "./machine.ts";
import { unresponsive } from "./machine_checks.ts";

/** Snapshots one worker keeps; each holds whole copies, so disk space ends first. */
const snapshotsMax = 1024;
const jobPrefix = "snapshot-";
const jobsEveryMs = 50;
const readBytes = 1 << 20;

export interface SnapshotRecord {
  readonly version: 1;
  readonly snapshotId: string;
  readonly vmId: string;
  readonly state: "creating" | "ready";
  readonly createdAtMs: number;
  readonly disks: readonly { readonly device: string; readonly sizeBytes: number }[];
}

const recordShape = z.object({
  version: z.literal(1),
  snapshotId: z.string(),
  vmId: z.string(),
  state: z.enum(["creating", "ready"]),
  createdAtMs: z.number(),
  disks: z.array(z.object({ device: z.string(), sizeBytes: z.number() })),
});

export interface SnapshotView extends Omit<SnapshotRecord, "disks"> {
  readonly disks: readonly { readonly device: string; readonly sizeBytes: number; readonly bytes: number }[];
}

export interface SnapshotsDeps {
  readonly clock: Clock;
  readonly log: Logger;
  readonly user: HostUser;
  readonly disks: Disks;
}

/**
 * Copies of all disks of a VM at one instant: whole qcow2 files under `dir`, one directory per snapshot. A guest that
 * runs goes on meanwhile; QEMU keeps what it overwrites until it is copied. A copy that an agent's death cut short is
 * thrown away.
 */
export class Snapshots {
  readonly #dir: string;
  readonly #deps: SnapshotsDeps;
  readonly #records = new Map<string, SnapshotRecord>();

  constructor(options: { readonly dir: string }, deps: SnapshotsDeps) {
    this.#dir = options.dir;
    this.#deps = deps;
  }

  /** Reads the records and throws away what was not completed; call when the VMs are adopted. */
  async open(machineOf: (vmId: string) => Machine | undefined): Promise<void> {
    await Deno.mkdir(this.#dir, { recursive: true, mode: 0o711 });
    for await (const { name } of Deno.readDir(this.#dir)) {
      const text = await Deno.readTextFile(`${this.#dir}/${name}/snapshot.json`).catch(() => undefined);
      const record = text === undefined ? undefined : recordShape.parse(JSON.parse(text));
      if (record?.state === "ready") {
        this.#records.set(record.snapshotId, record);
        continue;
      }
      const live = record && machineOf(record.vmId)?.live;
      if (record && live) await this.#cleanUp(live.qemu.monitor, record.disks.map((disk) => disk.device));
      await removeAll(`${this.#dir}/${name}`);
      this.#deps.log.warn("threw away a snapshot that was not completed", { snapshot: name });
    }
  }

  /**
   * Makes the snapshot, of these devices or of every disk when none is named, or answers the one of that id; for one
   * caller of the VM at a time.
   */
  async create(machine: Machine, snapshotId: string, devices: readonly string[] = []): Promise<SnapshotView> {
    checkId(snapshotId, "snapshot_id");
    const { vmId } = machine.spec;
    const known = this.#records.get(snapshotId);
    if (known) {
      if (known.vmId === vmId && known.state === "ready") return await this.#view(known);
      throw fault("already_exists", "snapshot_exists", `Cannot make ${snapshotId} as ${known.vmId} has it`);
    }
    if (this.#records.size >= snapshotsMax) {
      throw fault("resource_exhausted", "too_many_snapshots", `Cannot keep more than ${snapshotsMax} snapshots`);
    }
    const { migration, run } = machine.record;
    if (migration && !isOver(migration.phase)) {
      throw fault("failed_precondition", "vm_migrating", `Cannot copy the disks of ${vmId} while it migrates`);
    }
    const all = machine.disks();
    const missing = devices.find((device) => !all.some((disk) => disk.device === device));
    if (missing !== undefined) {
      throw fault("failed_precondition", "disk_detached", `Cannot copy ${missing} as ${vmId} does not have it`);
    }
    const disks = devices.length === 0 ? all : all.filter((disk) => devices.includes(disk.device));
    if (disks.length === 0) {
      throw fault("failed_precondition", "no_disks", `Cannot copy the disks of ${vmId}: it has none`);
    }
    if (run && !machine.live) throw unresponsive(vmId, "copy the disks of");
    const live = machine.live;
    const sized: { disk: Disk; sizeBytes: number; node: string }[] = [];
    for (const disk of disks) sized.push({ disk, ...await this.#sizeOf(live?.qemu.monitor, disk) });
    const record: SnapshotRecord = {
      version: 1,
      snapshotId,
      vmId,
      state: "creating",
      createdAtMs: this.#deps.clock.nowMs(),
      disks: sized.map(({ disk, sizeBytes }) => ({ device: disk.device, sizeBytes })),
    };
    this.#records.set(snapshotId, record);
    try {
      await Deno.mkdir(this.#dirOf(snapshotId), { recursive: true, mode: 0o711 });
      await this.#save(record);
      if (live && run) await this.#copyLive(live.qemu.monitor, run.slot, snapshotId, sized);
      else for (const { disk } of sized) await this.#copyOff(disk, this.#pathOf(snapshotId, disk.device));
      const ready: SnapshotRecord = { ...record, state: "ready" };
      await this.#save(ready);
      this.#records.set(snapshotId, ready);
      return await this.#view(ready);
    } catch (error) {
      if (live) await this.#cleanUp(live.qemu.monitor, record.disks.map((disk) => disk.device)).catch(() => {});
      this.#records.delete(snapshotId);
      await removeAll(this.#dirOf(snapshotId));
      throw error;
    }
  }

  async remove(snapshotId: string, machines: Iterable<Machine>): Promise<void> {
    checkId(snapshotId, "snapshot_id");
    const known = this.#records.get(snapshotId);
    if (!known) return;
    const busy = known.state === "creating" ||
      [...machines].some((machine) => machine.record.restoring === snapshotId);
    if (busy) throw fault("failed_precondition", "snapshot_in_use", `Cannot delete ${snapshotId} while it is used`);
    this.#records.delete(snapshotId);
    await removeAll(`${this.#dirOf(snapshotId)}/snapshot.json`);
    await removeAll(this.#dirOf(snapshotId));
    await syncDir(this.#dir);
  }

  async list(vmId: string): Promise<SnapshotView[]> {
    const records = [...this.#records.values()].filter((record) => vmId === "" || record.vmId === vmId);
    records.sort((a, b) => a.createdAtMs - b.createdAtMs || (a.snapshotId < b.snapshotId ? -1 : 1));
    return await Promise.all(records.map((record) => this.#view(record)));
  }

  /** Puts the copies back on the disks of a VM that is off; for one caller of the VM at a time. */
  async restore(machine: Machine, snapshotId: string): Promise<void> {
    const { vmId } = machine.spec;
    const record = this.#ready(snapshotId);
    if (record.vmId !== vmId) throw notFound(snapshotId);
    if (machine.isOn) {
      throw fault("failed_precondition", "vm_running", `Cannot restore ${vmId} while it is on: wanted it stopped`);
    }
    const devices = machine.disks().map((disk) => disk.device);
    const lost = record.disks.find((disk) => !devices.includes(disk.device));
    if (lost) {
      throw fault("failed_precondition", "disk_detached", `Cannot restore ${lost.device} as ${vmId} has it no more`);
    }
    // A start finishes what is cut short from here on.
    await machine.save({ restoring: snapshotId });
    await this.finishRestore(machine, snapshotId);
  }

  /** Does again what `restore` does, from its beginning. */
  async finishRestore(machine: Machine, snapshotId: string): Promise<void> {
    const record = this.#ready(snapshotId);
    for (const { device, sizeBytes } of record.disks) {
      const disk = machine.disks().find((one) => one.device === device);
      if (!disk) continue;
      const copy = this.#pathOf(snapshotId, device);
      if (disk.source.kind === "nbd") {
        await this.#deps.disks.fill(disk.source.uri, copy);
        continue;
      }
      const { path } = disk.source;
      const bytes = Math.max(await virtualSizeOf(path), sizeBytes);
      await removeAll(`${path}.new`);
      await this.#deps.disks.create(`${path}.new`, { bytes: 0, image: { path: copy, format: "qcow2" } });
      if (bytes > sizeBytes) await this.#deps.disks.grow(`${path}.new`, bytes);
      await Deno.rename(`${path}.new`, path);
    }
    await machine.save({ restoring: undefined });
  }

  /** One disk's copy, from a byte on. */
  async *read(snapshotId: string, device: string, offset: number): AsyncGenerator<Uint8Array> {
    const record = this.#ready(snapshotId);
    if (!record.disks.some((disk) => disk.device === device)) {
      throw fault(
        "not_found",
        "disk_not_found",
        `Cannot find disk ${JSON.stringify(device.slice(0, 40))} in ${snapshotId}`,
      );
    }
    using file = await Deno.open(this.#pathOf(snapshotId, device), { read: true });
    await file.seek(offset, Deno.SeekMode.Start);
    for (;;) {
      const buffer = new Uint8Array(readBytes);
      const n = await file.read(buffer);
      if (n === null) return;
      yield buffer.subarray(0, n);
    }
  }

  /** All copies begin in one transaction: they show the disks at one instant. */
  async #copyLive(
    monitor: QmpClient,
    slot: number,
    snapshotId: string,
    disks: readonly { disk: Disk; sizeBytes: number; node: string }[],
  ): Promise<void> {
    const actions = [];
    for (const { disk, sizeBytes, node } of disks) {
      const path = this.#pathOf(snapshotId, disk.device);
      await this.#deps.disks.create(path, { bytes: sizeBytes, image: undefined });
      await this.#deps.user.forVm(slot, [path], []);
      await monitor.execute("blockdev-add", qcow2Node(copyNode(disk.device), path, false));
      const data = {
        "job-id": jobPrefix + disk.device,
        device: node,
        target: copyNode(disk.device),
        sync: "full",
        "auto-dismiss": false,
      };
      actions.push({ type: "blockdev-backup", data });
    }
    await monitor.execute("transaction", { actions, properties: { "completion-mode": "grouped" } });
    for (;;) {
      const jobs = await snapshotJobs(monitor);
      if (jobs.every((job) => job.status === "concluded")) {
        const failed = jobs.find((job) => job.error !== undefined);
        if (failed) {
          throw fault("failed_precondition", "snapshot_failed", `Cannot copy ${failed.id}: ${failed.error}`);
        }
        break;
      }
      await this.#deps.clock.sleep(jobsEveryMs);
    }
    await this.#cleanUp(monitor, disks.map(({ disk }) => disk.device));
    for (const { disk } of disks) await this.#deps.user.takeBack(this.#pathOf(snapshotId, disk.device));
  }

  /** Ends the copies that run and takes their files from QEMU. */
  async #cleanUp(monitor: QmpClient, devices: readonly string[]): Promise<void> {
    for (;;) {
      const jobs = await snapshotJobs(monitor);
      if (jobs.length === 0) break;
      for (const job of jobs) {
        const command = job.status === "concluded" ? "job-dismiss" : "job-cancel";
        await monitor.execute(command, { id: job.id }).catch(() => {});
      }
      await this.#deps.clock.sleep(jobsEveryMs);
    }
    const nodes = await nodeNames(monitor);
    for (const device of devices) {
      const node = copyNode(device);
      if (nodes.has(node)) await monitor.execute("blockdev-del", { "node-name": node }).catch(unlessAbsent);
    }
  }

  async #copyOff({ source }: Disk, path: string): Promise<void> {
    await this.#deps.disks.copy(source.kind === "file" ? { ...source, format: "qcow2" } : source, path);
  }

  async #sizeOf(monitor: QmpClient | undefined, disk: Disk): Promise<{ sizeBytes: number; node: string }> {
    if (monitor) {
      const now = await attachedNode(monitor, disk.device);
      if (!now) throw fault("unavailable", "disk_unplugged", `Cannot copy ${disk.device} as it is not plugged yet`);
      return { sizeBytes: now.bytes, node: now.node };
    }
    const sizeBytes = disk.source.kind === "file" ? await virtualSizeOf(disk.source.path) : disk.sizeBytes;
    if (sizeBytes === 0) {
      throw fault("failed_precondition", "no_disks", `Cannot copy ${disk.device}: it was not made yet`);
    }
    return { sizeBytes, node: "" };
  }

  async #view(record: SnapshotRecord): Promise<SnapshotView> {
    const disks = record.disks.map(async ({ device, sizeBytes }) => ({
      device,
      sizeBytes,
      bytes: await sizeOf(this.#pathOf(record.snapshotId, device)) ?? 0,
    }));
    return { ...record, disks: await Promise.all(disks) };
  }

  #ready(snapshotId: string): SnapshotRecord {
    checkId(snapshotId, "snapshot_id");
    const record = this.#records.get(snapshotId);
    if (record?.state !== "ready") throw notFound(snapshotId);
    return record;
  }

  #dirOf(snapshotId: string): string {
    return `${this.#dir}/${snapshotId}`;
  }

  #pathOf(snapshotId: string, device: string): string {
    return `${this.#dirOf(snapshotId)}/${device}.qcow2`;
  }

  async #save(record: SnapshotRecord): Promise<void> {
    const data = utf8.encode(JSON.stringify(record) + "\n");
    await writeDurable(`${this.#dirOf(record.snapshotId)}/snapshot.json`, data);
  }
}

async function snapshotJobs(monitor: QmpClient): Promise<{ id: string; status: string; error?: string }[]> {
  const jobs = await monitor.execute<{ id: string; status: string; error?: string }[]>("query-jobs");
  return jobs.filter((job) => job.id.startsWith(jobPrefix));
}

function copyNode(device: string): string {
  return `s-${device.slice(device.indexOf("_") + 1)}`;
}

function notFound(snapshotId: string): Fault {
  return fault("not_found", "snapshot_not_found", `Cannot find snapshot ${snapshotId} on this worker`);
}

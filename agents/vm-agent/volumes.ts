import { type Clock, Fault, fault, utf8 } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import { z } from "zod";
import { type Disks, virtualSizeOf } from "./disks.ts";
import type { ImageRef } from "./domain/spec.ts";
import { checkId, checkSize, nbdUri, type VolumeSpec } from "./domain/volume_spec.ts";
import { ExportDaemon } from "./export_daemon.ts";
import { allocatedBytes, removeAll, syncDir, writeDurable } from "./files.ts";
import type { HostUser } from "./host_user.ts";
import type { ImageCache } from "./images.ts";
import { Lock } from "./lock.ts";
import { Slots, volumeSlotCount, volumeSlotFiles } from "./slots.ts";

/** Volumes one worker keeps; each is a directory with one file and a record. */
const volumesKeptMax = 1024;
/** Epochs that may write side by side: a migration has two. */
const exportsMax = 4;

interface VolumeRecord {
  readonly version: 1;
  readonly volumeId: string;
  readonly sizeBytes: number;
  /** The highest a writer came with. */
  readonly writerEpoch: number;
  /** Epochs that have an export. */
  readonly exports: readonly number[];
  /** Of the daemon that exports it; undefined: none. Written before it starts. */
  readonly slot?: number | undefined;
}

const recordShape = z.object({
  version: z.literal(1),
  volumeId: z.string(),
  sizeBytes: z.number(),
  writerEpoch: z.number(),
  exports: z.array(z.number()),
  slot: z.number().int().optional(),
});

export interface VolumeView {
  readonly volumeId: string;
  readonly sizeBytes: number;
  readonly allocatedBytes: number;
  readonly writerEpoch: number;
  readonly exports: readonly { readonly uri: string; readonly writerEpoch: number }[];
  /** Of the VM here that has the file open. */
  readonly vmId: string;
}

export interface VolumesDeps {
  readonly clock: Clock;
  readonly log: Logger;
  readonly images: ImageCache;
  readonly user: HostUser;
  readonly disks: Disks;
  /** Resizes the disk of a VM of this worker that runs and has the volume plugged. */
  readonly growPlugged: (vmId: string, volumeId: string, bytes: number) => Promise<void>;
}

interface Entry {
  record: VolumeRecord;
  readonly lock: Lock;
  daemon: ExportDaemon | undefined;
  vmId: string | undefined;
}

/**
 * Disks that outlive VMs: qcow2 files under `dir`, one directory each. A volume is used by one VM of this worker, or
 * exported to QEMUs of workers on this host; never both, and QEMU's lock on the file holds to that too.
 */
export class Volumes {
  readonly #dir: string;
  readonly #runDir: string;
  readonly #deps: VolumesDeps;
  readonly #entries = new Map<string, Entry>();
  readonly #slots = new Slots(volumeSlotCount, "export another volume");

  constructor(options: { readonly dir: string; readonly runDir: string }, deps: VolumesDeps) {
    this.#dir = options.dir;
    this.#runDir = options.runDir;
    this.#deps = deps;
  }

  /** Reads the records, finds the daemons that run and starts those that should; call once. */
  async open(): Promise<void> {
    await Deno.mkdir(this.#dir, { recursive: true, mode: 0o711 });
    for await (const { name } of Deno.readDir(this.#dir)) {
      const record = await readRecord(`${this.#dir}/${name}/volume.json`);
      if (!record) {
        await removeAll(`${this.#dir}/${name}`);
        continue;
      }
      if (record.slot !== undefined) this.#slots.claim(record.slot);
      this.#entries.set(record.volumeId, { record, lock: new Lock(), daemon: undefined, vmId: undefined });
    }
    for (let slot = 0; slot < volumeSlotCount; slot++) {
      if (!this.#slots.has(slot)) await this.#daemonAt(slot).end();
    }
    for (const entry of this.#entries.values()) {
      await entry.lock.run(() => this.#follow(entry)).catch((error) => {
        this.#deps.log.warn("volume not exported", { volume: entry.record.volumeId, error });
      });
    }
  }

  pathOf(volumeId: string): string {
    return `${this.#dir}/${volumeId}/data.qcow2`;
  }

  async create(volumeId: string, sizeBytes: number, image: ImageRef | undefined): Promise<VolumeView> {
    checkId(volumeId, "volume_id");
    checkSize(sizeBytes, "size_bytes");
    let entry = this.#entries.get(volumeId);
    if (!entry) {
      if (this.#entries.size >= volumesKeptMax) {
        throw fault("resource_exhausted", "too_many_volumes", `Cannot keep more than ${volumesKeptMax} volumes`);
      }
      const record: VolumeRecord = { version: 1, volumeId, sizeBytes, writerEpoch: 0, exports: [] };
      entry = { record, lock: new Lock(), daemon: undefined, vmId: undefined };
      this.#entries.set(volumeId, entry);
    }
    const made = entry;
    return await made.lock.run(async () => {
      try {
        if (made.record.sizeBytes !== sizeBytes) {
          throw fault(
            "already_exists",
            "volume_exists",
            `Cannot make ${volumeId} of ${sizeBytes} bytes as it has ${made.record.sizeBytes}`,
          );
        }
        await this.#make(made, image);
      } catch (error) {
        if (!await readRecord(`${this.#dir}/${volumeId}/volume.json`)) {
          this.#entries.delete(volumeId);
          await removeAll(`${this.#dir}/${volumeId}`);
        }
        throw error;
      }
      return await this.#view(made);
    });
  }

  /** Makes the volume larger; whoever uses it sees that at once, but for VMs that have it by NBD. */
  async grow(volumeId: string, sizeBytes: number): Promise<VolumeView> {
    checkSize(sizeBytes, "size_bytes");
    return await this.#alone(volumeId, async (entry) => {
      await this.#grow(entry, sizeBytes);
      return await this.#view(entry);
    });
  }

  async remove(volumeId: string): Promise<void> {
    checkId(volumeId, "volume_id");
    if (!this.#entries.has(volumeId)) return;
    await this.#alone(volumeId, async (entry) => {
      this.#refuseInUse(entry, "delete");
      this.#entries.delete(volumeId);
      await removeAll(`${this.#dir}/${volumeId}/volume.json`);
      await removeAll(`${this.#dir}/${volumeId}`);
      await syncDir(this.#dir);
    });
  }

  async list(): Promise<VolumeView[]> {
    const entries = [...this.#entries.values()].sort((a, b) => (a.record.volumeId < b.record.volumeId ? -1 : 1));
    return await Promise.all(entries.map((entry) => this.#view(entry)));
  }

  /** Lets QEMUs on this host use the volume. Writers of lower epochs are cut off unless `keepOlder`. */
  async export(volumeId: string, epoch: number, keepOlder: boolean): Promise<{ uri: string; writerEpoch: number }> {
    return await this.#alone(volumeId, async (entry) => {
      if (entry.vmId !== undefined) this.#refuseInUse(entry, "export");
      this.#refuseStale(entry, epoch);
      const kept = keepOlder ? entry.record.exports.filter((one) => one !== epoch) : [];
      const exports = [...kept, epoch].sort((a, b) => a - b);
      if (exports.length > exportsMax) {
        throw fault(
          "failed_precondition",
          "too_many_exports",
          `Cannot export ${volumeId} ${exports.length} times: wanted at most ${exportsMax}, so older ones unexported`,
        );
      }
      const fresh = entry.record.slot === undefined;
      const slot = entry.record.slot ?? this.#slots.take();
      try {
        await this.#save(entry, { ...entry.record, writerEpoch: epoch, exports, slot });
        await this.#follow(entry);
      } catch (error) {
        if (fresh) await this.#endDaemon(entry);
        throw error;
      }
      return { uri: this.#uriOf(entry, epoch), writerEpoch: epoch };
    });
  }

  /** Ends exports up to `epoch`, or all, or that of `epoch` alone, and cuts whoever uses them. */
  async unexport(
    volumeId: string,
    epoch: number,
    options: { readonly only: boolean } = { only: false },
  ): Promise<void> {
    await this.#alone(volumeId, async (entry) => {
      const stays = (one: number) => options.only ? one !== epoch : one > epoch;
      const exports = epoch === 0 ? [] : entry.record.exports.filter(stays);
      if (exports.length === 0) return await this.#endDaemon(entry);
      await this.#save(entry, { ...entry.record, exports });
      await this.#follow(entry);
    });
  }

  /** Refuses what a VM could not start with; changes nothing. */
  check(vmId: string, volume: VolumeSpec, epoch: number): void {
    const entry = this.#entry(volume.volumeId);
    if (entry.vmId !== undefined && entry.vmId !== vmId) this.#refuseInUse(entry, "attach");
    if (entry.record.exports.length > 0) this.#refuseInUse(entry, "attach");
    if (volume.sizeBytes < entry.record.sizeBytes) {
      throw fault(
        "failed_precondition",
        "volume_larger",
        `Cannot attach ${volume.volumeId} as ${volume.sizeBytes} bytes: it has ${entry.record.sizeBytes} and never shrinks`,
      );
    }
    this.#refuseStale(entry, epoch);
  }

  /** Takes the volume for a VM of this worker: stamps the epoch and gives it the size asked for. */
  async claim(vmId: string, volume: VolumeSpec, epoch: number): Promise<void> {
    await this.#alone(volume.volumeId, async (entry) => {
      this.check(vmId, volume, epoch);
      if (entry.record.writerEpoch !== epoch) await this.#save(entry, { ...entry.record, writerEpoch: epoch });
      if (entry.vmId !== vmId) await this.#grow(entry, volume.sizeBytes);
      else if (volume.sizeBytes > entry.record.sizeBytes) {
        // Whoever plugs the VM's devices gives the running QEMU the size.
        await this.#save(entry, { ...entry.record, sizeBytes: volume.sizeBytes });
      }
      entry.vmId = vmId;
    });
  }

  /** Stamps an epoch that the volume is handed on with. */
  async stamp(volumeId: string, epoch: number): Promise<void> {
    await this.#alone(volumeId, async (entry) => {
      if (entry.record.writerEpoch < epoch) await this.#save(entry, { ...entry.record, writerEpoch: epoch });
    });
  }

  /** The VM that adopted its QEMU has the volume already. */
  adopted(vmId: string, volumeId: string): void {
    const entry = this.#entries.get(volumeId);
    if (entry) entry.vmId = vmId;
  }

  /** A VM has let go of all volumes but these. */
  keepOnly(vmId: string, volumeIds: readonly string[]): void {
    for (const entry of this.#entries.values()) {
      if (entry.vmId === vmId && !volumeIds.includes(entry.record.volumeId)) entry.vmId = undefined;
    }
  }

  has(volumeId: string): boolean {
    return this.#entries.has(volumeId);
  }

  /** Looks after daemons that have died: their users wait for a moment. */
  async look(): Promise<void> {
    for (const entry of this.#entries.values()) {
      if (entry.record.exports.length === 0 || entry.daemon?.alive) continue;
      await entry.lock.run(() => this.#follow(entry));
    }
  }

  /** Lets go of the daemons and leaves them running. */
  async release(): Promise<void> {
    for (const entry of this.#entries.values()) await entry.daemon?.release();
  }

  async #make(entry: Entry, image: ImageRef | undefined): Promise<void> {
    const { volumeId, sizeBytes } = entry.record;
    const dir = `${this.#dir}/${volumeId}`;
    if (await readRecord(`${dir}/volume.json`)) return;
    await Deno.mkdir(dir, { recursive: true, mode: 0o711 });
    const local = image && await this.#deps.images.ensure(image);
    if (local && (local.kind !== "disk" || image.format === "kernel_bundle")) {
      throw fault(
        "failed_precondition",
        "image_no_disk",
        `Cannot fill ${volumeId} from a kernel bundle: wanted a disk`,
      );
    }
    const source = local?.kind === "disk" && image!.format !== "kernel_bundle"
      ? { path: local.path, format: image!.format }
      : undefined;
    await this.#deps.disks.create(this.pathOf(volumeId), { bytes: sizeBytes, image: source });
    await this.#save(entry, entry.record);
    await syncDir(this.#dir);
  }

  async #grow(entry: Entry, sizeBytes: number): Promise<void> {
    const { volumeId, sizeBytes: now } = entry.record;
    if (sizeBytes < now) {
      throw fault(
        "failed_precondition",
        "volume_larger",
        `Cannot shrink ${volumeId} from ${now} to ${sizeBytes} bytes: wanted a larger size`,
      );
    }
    if (sizeBytes === now && await virtualSizeOf(this.pathOf(volumeId)) === sizeBytes) return;
    // The record first: what a crash leaves is grown when it is asked for again.
    await this.#save(entry, { ...entry.record, sizeBytes });
    if (entry.vmId !== undefined) await this.#deps.growPlugged(entry.vmId, volumeId, sizeBytes);
    else if (entry.daemon?.alive) await entry.daemon.grow(sizeBytes);
    else await this.#deps.disks.grow(this.pathOf(volumeId), sizeBytes);
  }

  /** Brings the daemon to what the record says. */
  async #follow(entry: Entry): Promise<void> {
    const { slot, exports, volumeId } = entry.record;
    if (slot === undefined) return;
    if (exports.length === 0) return await this.#endDaemon(entry);
    entry.daemon ??= this.#daemonAt(slot);
    await entry.daemon.serve(this.pathOf(volumeId), exports.map((epoch) => nameOf(volumeId, epoch)));
  }

  async #endDaemon(entry: Entry): Promise<void> {
    const { slot } = entry.record;
    if (slot === undefined) return;
    await (entry.daemon ?? this.#daemonAt(slot)).end();
    entry.daemon = undefined;
    await this.#save(entry, { ...entry.record, exports: [], slot: undefined });
    this.#slots.release(slot);
  }

  #daemonAt(slot: number): ExportDaemon {
    return new ExportDaemon({ files: volumeSlotFiles(this.#runDir, slot), slot }, this.#deps);
  }

  async #view(entry: Entry): Promise<VolumeView> {
    const { volumeId, sizeBytes, writerEpoch, exports } = entry.record;
    return {
      volumeId,
      sizeBytes,
      writerEpoch,
      allocatedBytes: await allocatedBytes(this.pathOf(volumeId)),
      exports: exports.map((epoch) => ({ uri: this.#uriOf(entry, epoch), writerEpoch: epoch })),
      vmId: entry.vmId ?? "",
    };
  }

  #uriOf(entry: Entry, epoch: number): string {
    return nbdUri(
      volumeSlotFiles(this.#runDir, entry.record.slot ?? 0).nbdSocket,
      nameOf(entry.record.volumeId, epoch),
    );
  }

  #refuseStale(entry: Entry, epoch: number): void {
    const { writerEpoch, volumeId } = entry.record;
    if (epoch < writerEpoch) throw staleEpoch(volumeId, epoch, writerEpoch);
  }

  #refuseInUse(entry: Entry, action: string): void {
    const { volumeId, exports } = entry.record;
    if (entry.vmId === undefined && exports.length === 0) return;
    const why = entry.vmId === undefined ? "it is exported" : `${entry.vmId} has it plugged`;
    throw fault("failed_precondition", "volume_in_use", `Cannot ${action} ${volumeId} as ${why}`);
  }

  #entry(volumeId: string): Entry {
    checkId(volumeId, "volume_id");
    const entry = this.#entries.get(volumeId);
    if (!entry) throw fault("not_found", "volume_not_found", `Cannot find volume ${volumeId} on this worker`);
    return entry;
  }

  async #alone<T>(volumeId: string, work: (entry: Entry) => Promise<T>): Promise<T> {
    const entry = this.#entry(volumeId);
    return await entry.lock.run(async () => {
      if (this.#entries.get(volumeId) !== entry) return await work(this.#entry(volumeId));
      return await work(entry);
    });
  }

  async #save(entry: Entry, record: VolumeRecord): Promise<void> {
    await writeDurable(`${this.#dir}/${record.volumeId}/volume.json`, utf8.encode(JSON.stringify(record) + "\n"));
    entry.record = record;
  }
}

export function staleEpoch(what: string, asked: number, known: number): Fault {
  return new Fault(
    "aborted",
    "stale_writer_epoch",
    `Cannot write to ${what} in epoch ${asked} as it has seen epoch ${known}`,
    { metadata: { known: String(known) } },
  );
}

function nameOf(volumeId: string, epoch: number): string {
  return `${volumeId}.${epoch}`;
}

async function readRecord(path: string): Promise<VolumeRecord | undefined> {
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return undefined;
    throw error;
  }
  const parsed = recordShape.safeParse(JSON.parse(text));
  if (!parsed.success) {
    throw fault("data_loss", "record_unreadable", `Cannot read ${path}: ${z.prettifyError(parsed.error)}`);
  }
  return parsed.data;
}

import { fault, utf8 } from "@ultracloud/base";
import { z } from "zod";
import type { Layout } from "./domain/layout.ts";
import type { MigrationRecord } from "./domain/migration.ts";
import type { VmSpec } from "./domain/spec.ts";
import { removeAll, syncDir, writeDurable } from "./files.ts";

/** What a worker must not forget about a VM. */
export interface VmRecord {
  readonly version: 1;
  readonly spec: VmSpec;
  /** What was last asked for. */
  readonly desired: "running" | "paused" | "stopped";
  /** The power-on in progress; undefined while off. Written before QEMU starts, so none is ever lost. */
  readonly run: RunRecord | undefined;
  /** How it last ended. */
  readonly end: { readonly state: "stopped" | "failed"; readonly reason: string } | undefined;
  /** Of the root disk that is there; undefined: none was made yet. */
  readonly rootEpoch?: number | undefined;
  /** The highest that the disks were started or handed on with. */
  readonly writerEpoch?: number | undefined;
  readonly migration?: MigrationRecord | undefined;
  /** A snapshot whose copies are being put back: finished before the next start. */
  readonly restoring?: string | undefined;
}

export interface RunRecord {
  readonly slot: number;
  readonly startedAtMs: number;
  /** Without its ports, which QEMU itself knows. */
  readonly hardware: Omit<Layout, "ports" | "sizes">;
  /** The spec whose devices are plugged, as far as they were; what is on the way stands in the record's own spec. */
  readonly plugged: VmSpec;
}

const recordShape = z.object({
  version: z.literal(1),
  spec: z.looseObject({ vmId: z.string(), generation: z.number() }),
  desired: z.enum(["running", "paused", "stopped"]),
  run: z.object({
    slot: z.number().int(),
    startedAtMs: z.number(),
    hardware: z.looseObject({ machineType: z.string() }),
    plugged: z.looseObject({ vmId: z.string() }),
  }).optional(),
  end: z.object({ state: z.enum(["stopped", "failed"]), reason: z.string() }).optional(),
  rootEpoch: z.number().optional(),
  writerEpoch: z.number().optional(),
  migration: z.looseObject({ id: z.string(), role: z.enum(["source", "target"]), phase: z.string() }).optional(),
  restoring: z.string().optional(),
});

/**
 * One directory per VM under `dir`, with its record, disk, seed and console. A directory without a record is the rest
 * of a creation or deletion that was cut short; `load` removes it.
 */
export class RecordStore {
  readonly #dir: string;

  constructor(options: { readonly dir: string }) {
    this.#dir = options.dir;
  }

  dirOf(vmId: string): string {
    return `${this.#dir}/${vmId}`;
  }

  /** All records; call once, at start. */
  async load(): Promise<VmRecord[]> {
    await Deno.mkdir(this.#dir, { recursive: true, mode: 0o711 });
    const records: VmRecord[] = [];
    for await (const entry of Deno.readDir(this.#dir)) {
      const path = `${this.#dir}/${entry.name}`;
      let text: string;
      try {
        text = await Deno.readTextFile(`${path}/record.json`);
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
        await removeAll(path);
        continue;
      }
      const parsed = recordShape.safeParse(jsonOf(text));
      if (!parsed.success) {
        throw fault(
          "data_loss",
          "record_unreadable",
          `Cannot read ${path}/record.json: ${z.prettifyError(parsed.error)}`,
        );
      }
      records.push(parsed.data as unknown as VmRecord);
    }
    return records;
  }

  /** Durable on return. */
  async put(record: VmRecord): Promise<void> {
    const dir = this.dirOf(record.spec.vmId);
    await Deno.mkdir(dir, { recursive: true, mode: 0o711 });
    await writeDurable(`${dir}/record.json`, utf8.encode(JSON.stringify(record) + "\n"));
  }

  /** Removes the record first, then the rest: a crash between leaves what `load` removes. */
  async remove(vmId: string): Promise<void> {
    const dir = this.dirOf(vmId);
    await removeAll(`${dir}/record.json`);
    await removeAll(dir);
    await syncDir(this.#dir);
  }
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

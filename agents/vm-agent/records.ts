import { fault, utf8 } from "@ultracloud/base";
import { z } from "zod";
import type { VmSpec } from "./domain/spec.ts";
import { removeAll, syncDir, writeDurable } from "./files.ts";

/** What a worker must not forget about a VM. */
export interface VmRecord {
  readonly version: 1;
  readonly spec: VmSpec;
  /** What was last asked for. */
  readonly desired: "running" | "stopped";
  /** The power-on in progress; undefined while off. Written before QEMU starts, so none is ever lost. */
  readonly run: { readonly slot: number; readonly startedAtMs: number } | undefined;
  /** How it last ended. */
  readonly end: { readonly state: "stopped" | "failed"; readonly reason: string } | undefined;
}

const recordShape = z.object({
  version: z.literal(1),
  spec: z.looseObject({ vmId: z.string(), generation: z.number() }),
  desired: z.enum(["running", "stopped"]),
  run: z.object({ slot: z.number().int(), startedAtMs: z.number() }).optional(),
  end: z.object({ state: z.enum(["stopped", "failed"]), reason: z.string() }).optional(),
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
    await Deno.mkdir(this.#dir, { recursive: true, mode: 0o700 });
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
    await Deno.mkdir(dir, { recursive: true, mode: 0o700 });
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

import { Fault, fault } from "@ultracloud/base";
import { type MarkerLine, markerNode, parseMarker } from "@ultracloud/cluster-state";
import { workspaceRoot } from "@ultracloud/testing";
import { runTool } from "../../harness/tools.ts";

/** A line without an end is no line of text. */
const lineBytesMax = 64 * 1024;
const readBytes = 256 * 1024;

/** A serial log that something else writes (SOL, a BMC's console, QEMU); read from `offset` on, whole lines only. */
export class SerialTail {
  readonly #file: string;
  #offset: number;
  #rest = "";
  readonly #decoder = new TextDecoder();

  /** Lines before `offset` are of an earlier run. */
  constructor(file: string, offset: number) {
    this.#file = file;
    this.#offset = offset;
  }

  /** Markers since the last look. A log that became shorter was begun anew and is read from its start. */
  async poll(): Promise<MarkerLine[]> {
    const found: MarkerLine[] = [];
    using log = await Deno.open(this.#file).catch((error) => {
      if (error instanceof Deno.errors.NotFound) return undefined;
      throw error;
    });
    if (log === undefined) return found;
    const { size } = await log.stat();
    if (size < this.#offset) {
      this.#offset = 0;
      this.#rest = "";
    }
    await log.seek(this.#offset, Deno.SeekMode.Start);
    const buffer = new Uint8Array(readBytes);
    for (let n = await log.read(buffer); n !== null; n = await log.read(buffer)) {
      this.#offset += n;
      const lines = (this.#rest + this.#decoder.decode(buffer.subarray(0, n), { stream: true })).split(/\r?\n/);
      this.#rest = lines.pop()!.slice(-lineBytesMax);
      for (const line of lines) {
        const marker = parseMarker(line);
        if (marker !== undefined) found.push(marker);
      }
    }
    return found;
  }
}

/** What the deployer has of a node, as `uc` shows it. */
export interface NodeRecord {
  readonly markers: readonly MarkerLine[];
  /** Time of the newest marker by the deployer's clock, milliseconds since the epoch; 0 without one. */
  readonly newestMs: number;
  readonly json: string;
}

/**
 * Asks the deployer by the operator's own command line, so that this program needs no rights and no keys of its own.
 * `afterMs`: markers up to this time of the deployer's clock are of an earlier installation, or known.
 */
export async function readNodeRecord(node: string, context: string, afterMs: number): Promise<NodeRecord> {
  const argv = [Deno.execPath(), "run", "-A", "-q", "--frozen", `${workspaceRoot}/cli/main.ts`];
  const asked = [...argv, "deployer", "node", "inspect", node, "--context", context, "-o", "json"];
  const { code, stdout, stderr } = await runTool(asked, { cwd: workspaceRoot });
  if (code !== 0) {
    throw fault(
      "unavailable",
      "deployer_record",
      `Cannot read the deployer's record of ${node}: ${stderr.trim().split("\n")[0]?.slice(0, 300)}`,
    );
  }
  try {
    return parseNodeRecord(stdout, node, afterMs);
  } catch (cause) {
    if (cause instanceof Fault) throw cause;
    throw fault("data_loss", "deployer_record", `Cannot read the deployer's record of ${node}`, { cause });
  }
}

/** Reads what `uc deployer node inspect -o json` prints. */
export function parseNodeRecord(json: string, node: string, afterMs: number): NodeRecord {
  const record = JSON.parse(json) as { markers?: { name?: string; detail?: string; time?: string }[] };
  const all = (record.markers ?? []).map((marker) => ({ ...marker, ms: Date.parse(marker.time ?? "") || 0 }));
  const markers = all.filter(({ ms }) => ms > afterMs)
    .map(({ name, detail }) => parseMarker(`ULTRACLOUD_MARKER ${name}.${markerNode(node)} ${detail ?? ""}`))
    .filter((line) => line !== undefined);
  return { markers, newestMs: Math.max(0, ...all.map(({ ms }) => ms)), json };
}

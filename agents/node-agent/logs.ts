import { type Clock, fault } from "@ultracloud/base";
import { segmentName, segmentOffset } from "./domain/files.ts";

const pollMs = 100;

export interface LogSlice {
  readonly offset: number;
  readonly data: Uint8Array<ArrayBuffer>;
  readonly nextOffset: number;
}

interface Segment {
  readonly start: number;
  readonly bytes: number;
}

function segmentsOf(dir: string): Segment[] {
  try {
    return [...Deno.readDirSync(dir)].map(({ name }) => segmentOffset(name)).filter((start) => start !== undefined)
      .sort((a, b) => a - b).map((start) => ({ start, bytes: Deno.statSync(`${dir}/${segmentName(start)}`).size }));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

/** Bytes of output ever written. */
export function logEnd(dir: string): number {
  const last = segmentsOf(dir).at(-1);
  return last ? last.start + last.bytes : 0;
}

/**
 * Output from an offset on, at most `limit` bytes and of one segment; a negative offset counts from the end, one that
 * is gone already moves to the oldest that is left. Waits up to `waitMs` for something to give.
 */
export async function readLog(
  dir: string,
  o: { readonly offset: number; readonly limit: number; readonly waitMs: number },
  clock: Clock,
  signal: AbortSignal,
): Promise<LogSlice> {
  const until = clock.monotonicMs() + o.waitMs;
  for (;;) {
    const segments = segmentsOf(dir);
    const end = segments.length > 0 ? segments.at(-1)!.start + segments.at(-1)!.bytes : 0;
    const asked = o.offset < 0 ? Math.max(0, end + o.offset) : o.offset;
    if (asked > end) {
      throw fault("out_of_range", "log_offset_beyond", `Cannot read from ${asked} as the log ends at ${end}`);
    }
    const offset = Math.max(asked, segments[0]?.start ?? 0);
    const from = segments.find(({ start, bytes }) => offset < start + bytes);
    if (from) {
      using file = Deno.openSync(`${dir}/${segmentName(from.start)}`);
      file.seekSync(offset - from.start, Deno.SeekMode.Start);
      const data = new Uint8Array(Math.min(o.limit, from.start + from.bytes - offset));
      let length = 0;
      for (let n: number | null = 0; length < data.length && n !== null; length += n ?? 0) {
        n = file.readSync(data.subarray(length));
      }
      return { offset, data: data.subarray(0, length), nextOffset: offset + length };
    }
    if (clock.monotonicMs() >= until) return { offset, data: new Uint8Array(), nextOffset: offset };
    await clock.sleep(pollMs, signal);
  }
}

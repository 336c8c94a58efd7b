import { concatBytes, fault, utf8 } from "@ultracloud/base";
import { readAt, removeAll, sizeOf, writeDurable } from "./files.ts";

interface Index {
  /** Offset of the first byte of the live file. */
  readonly base: number;
  /** Offset of the first byte of the head file, which ends at `base`; equal to `base` when there is none. */
  readonly headStart: number;
  /** Bytes of the live file that the head already has: it is to be truncated. */
  readonly cut: number;
}

export interface ConsoleSlice {
  /** Where `data` really starts: later than asked when older bytes are gone. */
  readonly offset: number;
  readonly data: Uint8Array;
  readonly nextOffset: number;
}

/**
 * History of a serial line by byte offset since the first power-on, across restarts of QEMU and of the agent.
 *
 * QEMU appends to `console.log` and never rotates it, so `trim` moves its tail to a head file and truncates it in
 * place (QEMU writes with O_APPEND). The index is written before the truncation and says how much to cut, so a crash
 * between the two is finished later. Bytes that arrive between reading the tail and truncating are lost; offsets
 * never run backwards.
 */
export class ConsoleLog {
  readonly path: string;
  readonly #dir: string;
  readonly #bytesMax: number;
  #busy: Promise<unknown> = Promise.resolve();

  /** `bytesMax`: how much history is kept; the files hold at most about twice that between two trims. */
  constructor(options: { readonly dir: string; readonly bytesMax: number }) {
    this.#dir = options.dir;
    this.#bytesMax = options.bytesMax;
    this.path = `${options.dir}/console.log`;
  }

  /** Up to `limit` bytes from `offset`; a negative offset counts from the end. */
  read(offset: number, limit: number): Promise<ConsoleSlice> {
    return this.#alone(async () => {
      const index = await this.#index();
      const live = await sizeOf(this.path) ?? 0;
      const end = index.base + live;
      const wanted = offset < 0 ? end + offset : offset;
      const from = Math.min(Math.max(wanted, index.headStart), end);
      const parts: Uint8Array[] = [];
      let at = from;
      if (at < index.base) {
        const part = await readAt(this.#headPath(index), at - index.headStart, Math.min(limit, index.base - at));
        parts.push(part);
        at += part.length;
      }
      const left = limit - (at - from);
      if (at >= index.base && left > 0 && live > 0) {
        const part = await readAt(this.path, at - index.base, left);
        parts.push(part);
        at += part.length;
      }
      return { offset: from, data: concatBytes(parts), nextOffset: at };
    });
  }

  /** Offset after the last byte. */
  end(): Promise<number> {
    return this.#alone(async () => (await this.#index()).base + (await sizeOf(this.path) ?? 0));
  }

  /** Brings the live file back to nothing when it holds more than the history may. */
  trim(): Promise<void> {
    return this.#alone(async () => {
      const live = await sizeOf(this.path) ?? 0;
      if (live <= this.#bytesMax) return;
      const old = await this.#index();
      const kept = Math.min(live, this.#bytesMax);
      const tail = await readAt(this.path, live - kept, kept);
      const next: Index = { base: old.base + live, headStart: old.base + live - tail.length, cut: live };
      await writeDurable(this.#headPath(next), tail);
      await this.#write(next);
      if (old.headStart < old.base) await removeAll(this.#headPath(old));
      await this.#cut(next);
    });
  }

  async #index(): Promise<Index> {
    let text: string;
    try {
      text = await Deno.readTextFile(`${this.#dir}/console.json`);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return { base: 0, headStart: 0, cut: 0 };
      throw error;
    }
    const index = JSON.parse(text) as Index;
    if (!(index.headStart <= index.base)) {
      throw fault("data_loss", "console_index", `Cannot read ${this.#dir}/console.json: wanted headStart <= base`);
    }
    return index.cut > 0 ? await this.#cut(index) : index;
  }

  /** Finishes the truncation that `index` announces. */
  async #cut(index: Index): Promise<Index> {
    if ((await sizeOf(this.path) ?? 0) >= index.cut) await Deno.truncate(this.path, 0);
    const done = { ...index, cut: 0 };
    await this.#write(done);
    return done;
  }

  #write(index: Index): Promise<void> {
    return writeDurable(`${this.#dir}/console.json`, utf8.encode(JSON.stringify(index)));
  }

  #headPath(index: Index): string {
    return `${this.#dir}/console-${index.headStart}.head`;
  }

  /** A reader must not see the head of one index and the live file of another. */
  #alone<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#busy.then(work, work);
    this.#busy = run.catch(() => {});
    return run;
  }
}

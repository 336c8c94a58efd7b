import { logSegmentBytes, logSegmentsMax, segmentName, segmentOffset } from "../domain/files.ts";

/** An instance's output: bytes counted from the first ever, kept in segments of which the oldest go. */
export class LogWriter implements Disposable {
  readonly #dir: string;
  #file: Deno.FsFile | undefined;
  #start = 0;
  #length = 0;
  /** The last line with anything in it, for the reason of an end. */
  #tail = "";

  constructor(dir: string) {
    this.#dir = dir;
    Deno.mkdirSync(dir, { recursive: true, mode: 0o700 });
    const last = segments(dir).at(-1);
    if (last === undefined) return;
    this.#start = last;
    this.#length = Deno.statSync(`${dir}/${segmentName(last)}`).size;
  }

  write(bytes: Uint8Array): void {
    for (let rest = bytes; rest.length > 0;) {
      if (this.#length >= logSegmentBytes) this.#rotate();
      this.#file ??= Deno.openSync(`${this.#dir}/${segmentName(this.#start)}`, {
        create: true,
        append: true,
        mode: 0o600,
      });
      const piece = rest.subarray(0, logSegmentBytes - this.#length);
      const written = this.#file.writeSync(piece);
      this.#length += written;
      rest = rest.subarray(written);
    }
    const text = this.#tail + new TextDecoder().decode(bytes.subarray(-2048));
    this.#tail = text.slice(-1024);
  }

  #rotate(): void {
    this.#file?.close();
    this.#file = undefined;
    this.#start += this.#length;
    this.#length = 0;
    for (const old of segments(this.#dir).slice(0, -(logSegmentsMax - 1))) {
      Deno.removeSync(`${this.#dir}/${segmentName(old)}`);
    }
  }

  [Symbol.dispose](): void {
    this.#file?.close();
    this.#file = undefined;
  }

  get lastLine(): string {
    return this.#tail.split("\n").map((line) => line.trim()).findLast((line) => line !== "")?.slice(0, 200) ?? "";
  }
}

/** Offsets of the segments there are, in order. */
export function segments(dir: string): number[] {
  return [...Deno.readDirSync(dir)].map(({ name }) => segmentOffset(name)).filter((offset) => offset !== undefined)
    .sort((a, b) => a - b);
}

import { concatBytes, fault } from "@ultracloud/base";

const newline = 0x0a;

/** Cuts a byte stream into lines, holding at most `lineBytesMax` of an unfinished one. */
export class LineSplitter {
  #held: Uint8Array[] = [];
  #heldBytes = 0;
  readonly #lineBytesMax: number;

  constructor(options: { readonly lineBytesMax: number }) {
    this.#lineBytesMax = options.lineBytesMax;
  }

  /** The lines that `chunk` completes, without their line ends; throws data_loss when one is too long. */
  push(chunk: Uint8Array): string[] {
    const lines: string[] = [];
    let from = 0;
    for (;;) {
      const at = chunk.indexOf(newline, from);
      if (at < 0) break;
      lines.push(this.#finish(chunk.subarray(from, at)));
      from = at + 1;
    }
    if (from < chunk.length) this.#hold(chunk.slice(from));
    return lines;
  }

  #hold(part: Uint8Array): void {
    this.#heldBytes += part.length;
    if (this.#heldBytes > this.#lineBytesMax) {
      throw fault(
        "data_loss",
        "qmp_line_too_long",
        `Cannot read a QMP line of more than ${this.#heldBytes} bytes: wanted at most ${this.#lineBytesMax}`,
      );
    }
    this.#held.push(part);
  }

  #finish(tail: Uint8Array): string {
    this.#hold(tail);
    const bytes = this.#held.length === 1 ? tail : concatBytes(this.#held);
    this.#held = [];
    this.#heldBytes = 0;
    const text = new TextDecoder().decode(bytes);
    return text.endsWith("\r") ? text.slice(0, -1) : text;
  }
}

import { concatBytes, fault, utf8 } from "@ultracloud/base";

const quote = 0x22, backslash = 0x5c, open = 0x7b, openArray = 0x5b, close = 0x7d, closeArray = 0x5d;

/**
 * Cuts a byte stream into JSON texts. The wire has no separator between them, so brackets are counted, those in
 * strings left out. Holds at most `messageBytesMax` of an unfinished text.
 */
export class JsonFrames {
  #held: Uint8Array[] = [];
  #heldBytes = 0;
  #depth = 0;
  #inString = false;
  #escaped = false;
  readonly #messageBytesMax: number;

  constructor(options: { readonly messageBytesMax: number }) {
    this.#messageBytesMax = options.messageBytesMax;
  }

  /** The values that `chunk` completes; throws data_loss on text that is no JSON or too long. */
  push(chunk: Uint8Array): unknown[] {
    const values: unknown[] = [];
    let from = 0;
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i]!;
      if (this.#inString) {
        if (this.#escaped) this.#escaped = false;
        else if (byte === backslash) this.#escaped = true;
        else if (byte === quote) this.#inString = false;
      } else if (byte === quote) {
        this.#inString = true;
      } else if (byte === open || byte === openArray) {
        this.#depth++;
      } else if (byte === close || byte === closeArray) {
        if (--this.#depth === 0) {
          values.push(this.#finish(chunk.subarray(from, i + 1)));
          from = i + 1;
        } else if (this.#depth < 0) {
          throw fault("data_loss", "ovsdb_protocol", "Cannot read from the database: a closing bracket too many");
        }
      }
    }
    if (from < chunk.length) this.#hold(chunk.slice(from));
    return values;
  }

  #hold(part: Uint8Array): void {
    this.#heldBytes += part.length;
    if (this.#heldBytes <= this.#messageBytesMax) {
      this.#held.push(part);
      return;
    }
    throw fault(
      "data_loss",
      "ovsdb_message_too_long",
      `Cannot read a message of more than ${this.#heldBytes} bytes: wanted at most ${this.#messageBytesMax}`,
    );
  }

  #finish(tail: Uint8Array): unknown {
    this.#hold(tail);
    const text = utf8.decode(this.#held.length === 1 ? tail : concatBytes(this.#held));
    this.#held = [];
    this.#heldBytes = 0;
    try {
      return JSON.parse(text);
    } catch (cause) {
      throw fault(
        "data_loss",
        "ovsdb_protocol",
        `Cannot read ${JSON.stringify(text.slice(0, 80))} from the database: wanted JSON`,
        { cause },
      );
    }
  }
}

import { assert } from "@ultracloud/base";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Appends numbers, bytes and text to one growing buffer. */
export class Writer {
  #bytes: Uint8Array<ArrayBuffer>;
  #view: DataView;
  #at = 0;

  constructor(capacity = 256) {
    this.#bytes = new Uint8Array(capacity);
    this.#view = new DataView(this.#bytes.buffer);
  }

  get length(): number {
    return this.#at;
  }

  #room(bytes: number): void {
    if (this.#at + bytes <= this.#bytes.length) return;
    const larger = new Uint8Array(Math.max(this.#bytes.length * 2, this.#at + bytes));
    larger.set(this.#bytes.subarray(0, this.#at));
    this.#bytes = larger;
    this.#view = new DataView(larger.buffer);
  }

  byte(value: number): this {
    this.#room(1);
    this.#bytes[this.#at++] = value;
    return this;
  }

  flag(value: boolean): this {
    return this.byte(value ? 1 : 0);
  }

  /** An integer of [0, 2^53) in seven-bit groups, lowest first. */
  uint(value: number): this {
    assert(Number.isSafeInteger(value) && value >= 0, `${value} must be an integer of [0, 2^53)`);
    this.#room(8);
    while (value >= 128) {
      this.#bytes[this.#at++] = (value % 128) | 128;
      value = Math.floor(value / 128);
    }
    this.#bytes[this.#at++] = value;
    return this;
  }

  uint64(value: bigint): this {
    this.#room(8);
    this.#view.setBigUint64(this.#at, value, true);
    this.#at += 8;
    return this;
  }

  bytes(value: Uint8Array): this {
    this.uint(value.length);
    this.#room(value.length);
    this.#bytes.set(value, this.#at);
    this.#at += value.length;
    return this;
  }

  text(value: string): this {
    return this.bytes(encoder.encode(value));
  }

  list<T>(items: readonly T[], write: (item: T) => void): this {
    this.uint(items.length);
    for (const item of items) write(item);
    return this;
  }

  /** Everything that the reader has left. */
  rest(reader: Reader): this {
    const left = reader.rest();
    this.#room(left.length);
    this.#bytes.set(left, this.#at);
    this.#at += left.length;
    return this;
  }

  /** What was written; the writer is not used afterwards. */
  finish(): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(0, this.#at);
  }
}

/** Reads what a Writer wrote. Running over the end is a bug or damage: it throws. */
export class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get done(): boolean {
    return this.#at === this.#bytes.length;
  }

  byte(): number {
    const value = this.#bytes[this.#at++];
    assert(value !== undefined, "Encoded bytes must not end early");
    return value;
  }

  flag(): boolean {
    return this.byte() === 1;
  }

  uint(): number {
    let value = 0;
    let factor = 1;
    for (;;) {
      const byte = this.byte();
      value += (byte & 127) * factor;
      if (byte < 128) return value;
      factor *= 128;
    }
  }

  uint64(): bigint {
    const value = this.#view.getBigUint64(this.#at, true);
    this.#at += 8;
    return value;
  }

  /** A view on the bytes read from, not a copy. */
  bytes(): Uint8Array {
    const length = this.uint();
    const end = this.#at + length;
    assert(end <= this.#bytes.length, "Encoded bytes must not end early");
    const value = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return value;
  }

  /** What has not been read, and nothing is left. */
  rest(): Uint8Array {
    const value = this.#bytes.subarray(this.#at);
    this.#at = this.#bytes.length;
    return value;
  }

  text(): string {
    return decoder.decode(this.bytes());
  }

  list<T>(read: () => T): T[] {
    const length = this.uint();
    const items: T[] = [];
    for (let i = 0; i < length; i++) items.push(read());
    return items;
  }
}

/** Answers up to this are written into memory that stays; larger ones get their own. */
const keptBytesMax = 64 * 1024;
/** Longer texts are encoded by the runtime, whose call costs about as much as so many characters here. */
const loopedCharsMax = 256;
const encoder = new TextEncoder();
const empty = new Uint8Array(0);

/** Bytes of a length below 2^31. */
function sizeOfVarint(length: number): number {
  return length < 0x80 ? 1 : length < 0x4000 ? 2 : length < 0x20_0000 ? 3 : length < 0x1000_0000 ? 4 : 5;
}

/**
 * Writes one message after the other in protobuf's binary form, for hand-written codecs (`Codec`): into one buffer
 * that is used again, without an object per field. Field numbers are below 16. What it writes for a field is what
 * protobuf-es writes; proto3's zero values are left out unless a method says otherwise.
 */
export class ProtoWriter {
  readonly #kept = new Uint8Array(keptBytesMax);
  #bytes = empty;
  #view = new DataView(empty.buffer);
  #at = 0;

  /** Starts a message; what was begun before is dropped. */
  begin(): void {
    this.#at = 0;
    if (this.#bytes !== this.#kept) this.#use(this.#kept);
  }

  /** The message; the next one is written over it. Memory of its own would cost as much as writing a short one. */
  end(): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(0, this.#at);
  }

  #use(bytes: Uint8Array<ArrayBuffer>): void {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer);
  }

  /** Makes room for so many more bytes. */
  #reserve(count: number): void {
    const wanted = this.#at + count;
    if (wanted <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(wanted, this.#bytes.length * 2));
    grown.set(this.#bytes.subarray(0, this.#at));
    this.#use(grown);
  }

  /** A whole number from 0 to 2^53 - 1; there is room for it. */
  #varint(value: number): void {
    const bytes = this.#bytes;
    let at = this.#at;
    while (value > 0x7f_ff_ff_ff) {
      bytes[at++] = (value % 128) | 0x80;
      value = Math.floor(value / 128);
    }
    while (value > 0x7f) {
      bytes[at++] = (value & 0x7f) | 0x80;
      value >>>= 7;
    }
    bytes[at++] = value;
    this.#at = at;
  }

  #varint64(value: bigint): void {
    if (value <= 9007199254740991n) return this.#varint(Number(value));
    for (; value > 0x7fn; value >>= 7n) this.#bytes[this.#at++] = Number(value & 0x7fn) | 0x80;
    this.#bytes[this.#at++] = Number(value);
  }

  /** Begins a message within the message; `close` wants what it answers. */
  open(field: number): number {
    this.#reserve(2);
    this.#bytes[this.#at++] = field << 3 | 2;
    // Most are shorter than 128 bytes, whose length takes one; `close` makes room for longer ones.
    return ++this.#at;
  }

  close(start: number): void {
    const length = this.#at - start;
    if (length < 0x80) {
      this.#bytes[start - 1] = length;
      return;
    }
    this.#reserve(4);
    this.#bytes.copyWithin(start + sizeOfVarint(length) - 1, start, this.#at);
    this.#at = start - 1;
    this.#varint(length);
    this.#at += length;
  }

  uint64(field: number, value: bigint | undefined): void {
    if (value === undefined || value === 0n) return;
    this.#reserve(11);
    this.#bytes[this.#at++] = field << 3;
    this.#varint64(value);
  }

  int64(field: number, value: bigint | undefined): void {
    if (value !== undefined) this.uint64(field, value < 0n ? BigInt.asUintN(64, value) : value);
  }

  /** Of a `oneof`: written when it is 0, too. */
  sint64(field: number, value: bigint): void {
    this.#reserve(11);
    this.#bytes[this.#at++] = field << 3;
    this.#varint64(value < 0n ? -2n * value - 1n : 2n * value);
  }

  /** Written when it is 0, too. */
  double(field: number, value: number): void {
    this.#reserve(9);
    this.#bytes[this.#at++] = field << 3 | 1;
    this.#view.setFloat64(this.#at, value, true);
    this.#at += 8;
  }

  /** Written when it is empty, too. */
  bytes(field: number, value: Uint8Array): void {
    this.#reserve(6 + value.length);
    this.#bytes[this.#at++] = field << 3 | 2;
    this.#varint(value.length);
    this.#bytes.set(value, this.#at);
    this.#at += value.length;
  }

  /** Written when it is empty, too. */
  text(field: number, value: string): void {
    const { length } = value;
    this.#reserve(6 + 3 * length);
    const bytes = this.#bytes;
    bytes[this.#at++] = field << 3 | 2;
    if (length <= loopedCharsMax) {
      const start = length < 0x80 ? this.#at + 1 : this.#at + 2;
      let i = 0;
      for (; i < length; i++) {
        const code = value.charCodeAt(i);
        if (code > 0x7f) break;
        bytes[start + i] = code;
      }
      if (i === length) {
        this.#varint(length);
        this.#at += length;
        return;
      }
    }
    // Where it ends up when all of it is ASCII; else what is longer is moved before its length is written.
    const guess = this.#at + sizeOfVarint(length);
    const { written } = encoder.encodeInto(value, bytes.subarray(guess));
    const start = this.#at + sizeOfVarint(written);
    if (start !== guess) bytes.copyWithin(start, guess, guess + written);
    this.#varint(written);
    this.#at += written;
  }
}

/** Protobuf's texts are Unicode, and what looks like a byte-order mark is text. */
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
/** Texts up to so long are remembered: those of statements and names, which come again with every request. */
const rememberedBytesMax = 512;
/** Places for them, a power of two. */
const places = 256;

interface Remembered {
  readonly bytes: Uint8Array;
  readonly text: string;
}

/** Texts by their bytes; one per place, the newest. A text that comes again costs a comparison and no memory. */
const remembered: (Remembered | undefined)[] = new Array(places).fill(undefined);

/**
 * Reads protobuf's binary form for hand-written codecs (`Codec`), which know the plain spelling of their messages. All
 * else is for protobuf-es to read or to refuse: `odd` is set once the bytes end too early, or hold a number, a length
 * or a text that is not written the plain way, and what was read since means nothing.
 */
export class ProtoReader {
  readonly bytes: Uint8Array;
  /** Where the message that is being read ends. */
  end: number;
  at = 0;
  odd = false;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.end = bytes.length;
  }

  /** True while the message holds more. */
  get more(): boolean {
    return this.at < this.end && !this.odd;
  }

  /** Begins a message within the message; `leave` wants what it answers. */
  enter(): number {
    const outer = this.end;
    this.end = this.until();
    return outer;
  }

  leave(outer: number): void {
    this.end = outer;
  }

  /** A number below 2^28: tags, lengths, small fields. */
  uint(): number {
    const { bytes } = this;
    let value = 0;
    for (let shift = 0; shift < 28 && this.at < this.end; shift += 7) {
      const byte = bytes[this.at++]!;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    this.odd = true;
    return 0;
  }

  /** Where a length-delimited field ends; it begins at `at`. */
  until(): number {
    const length = this.uint();
    const end = this.at + length;
    if (end > this.end) this.odd = true;
    return this.odd ? this.at : end;
  }

  sint64(): bigint {
    let low = 0;
    // Exact below 2^49, which seven bytes hold.
    for (let place = 1, i = 0; i < 7 && this.at < this.end; i++, place *= 128) {
      const byte = this.bytes[this.at++]!;
      low += (byte & 0x7f) * place;
      if (byte < 0x80) return BigInt(low % 2 === 0 ? low / 2 : -(low + 1) / 2);
    }
    let value = BigInt(low);
    for (let shift = 49n; shift < 70n && this.at < this.end; shift += 7n) {
      const byte = this.bytes[this.at++]!;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte >= 0x80) continue;
      if (value >= 1n << 64n) break;
      return value & 1n ? -(value + 1n) / 2n : value / 2n;
    }
    this.odd = true;
    return 0n;
  }

  double(): number {
    if (this.at + 8 > this.end) {
      this.odd = true;
      return 0;
    }
    const view = new DataView(this.bytes.buffer, this.bytes.byteOffset + this.at, 8);
    this.at += 8;
    return view.getFloat64(0, true);
  }

  /** A part of the message's own bytes. */
  blob(): Uint8Array {
    const end = this.until();
    const blob = this.bytes.subarray(this.at, end);
    this.at = end;
    return blob;
  }

  /** A text that comes again and again: it is remembered. Not for values, which are other people's. */
  name(): string {
    const end = this.until();
    const { bytes, at } = this;
    const length = end - at;
    if (length > rememberedBytesMax) return this.#decode(end);
    let hash = length;
    for (let i = at; i < end; i++) hash = Math.imul(hash ^ bytes[i]!, 0x0100_0193);
    const place = (hash ^ hash >>> 15) & (places - 1);
    const known = remembered[place];
    if (known !== undefined && known.bytes.length === length) {
      let i = 0;
      while (i < length && known.bytes[i] === bytes[at + i]) i++;
      if (i === length) {
        this.at = end;
        return known.text;
      }
    }
    const text = this.#decode(end);
    if (!this.odd) remembered[place] = { bytes: bytes.slice(at, end), text };
    return text;
  }

  text(): string {
    return this.#decode(this.until());
  }

  #decode(end: number): string {
    const start = this.at;
    this.at = end;
    if (start === end) return "";
    try {
      return decoder.decode(this.bytes.subarray(start, end));
    } catch {
      this.odd = true;
      return "";
    }
  }
}

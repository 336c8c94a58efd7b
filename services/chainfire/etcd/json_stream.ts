import { fault } from "@ultracloud/base";

/** Finds where JSON values end that follow each other, without reading what they mean. */
class Scanner {
  #depth = 0;
  #quoted = false;
  #escaped = false;
  #started = false;

  /** Index behind the value that ends at or after `from`; -1 when the text ends before. */
  end(text: string, from: number): number {
    for (let i = from; i < text.length; i++) {
      const c = text[i]!;
      if (this.#quoted) {
        if (this.#escaped) this.#escaped = false;
        else if (c === "\\") this.#escaped = true;
        else if (c === '"') {
          this.#quoted = false;
          if (this.#depth === 0) return this.#done(i + 1);
        }
      } else if (c === '"') {
        this.#quoted = this.#started = true;
      } else if (c === "{" || c === "[") {
        this.#started = true;
        this.#depth++;
      } else if (c === "}" || c === "]") {
        if (--this.#depth <= 0) return this.#done(i + 1);
      } else if (this.#depth === 0) {
        const blank = c === " " || c === "\n" || c === "\r" || c === "\t";
        if (blank && this.#started) return this.#done(i);
        if (!blank) this.#started = true;
      }
    }
    return -1;
  }

  #done(at: number): number {
    this.#depth = 0;
    this.#started = false;
    return at;
  }

  get open(): boolean {
    return this.#started;
  }

  /** True for a value that ends with the text: a bare word or number. */
  get bare(): boolean {
    return this.#started && this.#depth === 0 && !this.#quoted;
  }
}

/** The first JSON value of a text; "" when it is blank, undefined when the value is cut short. */
export function firstValue(text: string): string | undefined {
  const scanner = new Scanner();
  const end = scanner.end(text, 0);
  if (end >= 0) return text.slice(0, end);
  if (!scanner.open) return "";
  return scanner.bare ? text : undefined;
}

/** The pieces of a body until it ends or nobody wants them any more. */
async function* pieces(body: ReadableStream<Uint8Array>, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const reader = body.getReader();
  const stop = () => void reader.cancel().catch(() => {});
  signal.addEventListener("abort", stop, { once: true });
  try {
    while (!signal.aborted) {
      const item = await reader.read();
      if (item.done) return;
      yield item.value;
    }
  } finally {
    signal.removeEventListener("abort", stop);
    stop();
  }
}

/**
 * JSON values that follow each other in a body, each as soon as it is complete. A value of more than `charsMax` is
 * refused, and one that the body cuts short.
 */
export async function* jsonValues(
  body: ReadableStream<Uint8Array> | null,
  charsMax: number,
  signal: AbortSignal,
): AsyncGenerator<string, void, undefined> {
  if (body === null) return;
  const decoder = new TextDecoder();
  let scanner = new Scanner();
  let pending = "";
  let scanned = 0;
  for await (const chunk of pieces(body, signal)) {
    pending += decoder.decode(chunk, { stream: true });
    for (;;) {
      const end = scanner.end(pending, scanned);
      if (end < 0) break;
      yield pending.slice(0, end);
      pending = pending.slice(end);
      scanned = 0;
      scanner = new Scanner();
    }
    scanned = pending.length;
    if (pending.length > charsMax) {
      throw fault(
        "resource_exhausted",
        "message_too_large",
        `Cannot read a message of more than ${charsMax} characters`,
      );
    }
  }
  if (signal.aborted) return;
  if (scanner.bare) yield pending;
  else if (scanner.open) throw fault("invalid_argument", "unreadable", "unexpected EOF");
}

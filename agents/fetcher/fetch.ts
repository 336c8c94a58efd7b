import { concatBytes, fault } from "@ultracloud/base";
import { mayReach, parseAddress, type Range } from "./domain/addresses.ts";
import { type AnswerHead, bodyOf, headBytesMax, parseHead } from "./domain/http_answer.ts";

export interface FetchOptions {
  readonly url: string;
  readonly bytesMax: number;
  readonly allowPlain: boolean;
  /** Private ranges that may be reached all the same. */
  readonly privateRanges: readonly Range[];
  /** A server that says nothing for this long is given up. */
  readonly silenceMsMax: number;
  /** Beside the well-known authorities. */
  readonly caCerts?: readonly string[];
}

export interface FetchDeps {
  /** IPv4 addresses of a name. */
  readonly resolve: (name: string, signal: AbortSignal) => Promise<readonly string[]>;
}

export interface Fetched {
  /** 0: unknown. */
  readonly bytes: number;
  readonly chunks: AsyncIterable<Uint8Array>;
}

const redirectsMax = 5;
const readBytes = 256 * 1024;

/**
 * The content of a URL. Each name is looked up here and the connection goes to the very address that was judged, so
 * that no second look-up can answer another one; so it is with every redirect. Throws a Fault that says what failed;
 * content that is cut off or too large ends with one.
 */
export async function fetchUrl(options: FetchOptions, deps: FetchDeps, signal: AbortSignal): Promise<Fetched> {
  let url = checkedUrl(options.url, options);
  for (let redirects = 0;; redirects++) {
    const answer = await Answer.open(url, options, deps, signal);
    let left = true;
    try {
      const { status, headers } = answer.head;
      const next = headers.get("location");
      if ([301, 302, 303, 307, 308].includes(status) && next !== undefined) {
        if (redirects === redirectsMax) throw refused(`Cannot follow ${url.host} further than ${redirectsMax} times`);
        url = checkedUrl(URL.canParse(next, url) ? new URL(next, url).href : next, options);
        continue;
      }
      if (status !== 200) {
        const kind = status === 404 || status === 410
          ? "not_found"
          : status >= 500
          ? "unavailable"
          : "failed_precondition";
        throw fault(kind, "fetch_refused", `Cannot fetch from ${url.host}: its server answers ${status}`);
      }
      const coding = headers.get("content-encoding") ?? "identity";
      if (coding !== "identity") throw refused(`Cannot read content in ${coding.slice(0, 40)}: wanted it as it is`);
      const bytes = answer.head.length ?? 0;
      if (bytes > options.bytesMax) throw tooLarge(bytes, options.bytesMax);
      left = false;
      return { bytes, chunks: answer.chunks(options.bytesMax) };
    } finally {
      if (left) answer.close();
    }
  }
}

/** One request and its answer, on a connection of its own. */
class Answer {
  readonly head: AnswerHead;
  readonly #url: URL;
  readonly #line: Line;
  readonly #rest: Uint8Array;

  private constructor(url: URL, line: Line, head: AnswerHead, rest: Uint8Array) {
    this.#url = url;
    this.#line = line;
    this.head = head;
    this.#rest = rest;
  }

  static async open(url: URL, options: FetchOptions, deps: FetchDeps, signal: AbortSignal): Promise<Answer> {
    const address = await judged(url.hostname, options.privateRanges, deps, signal);
    const line = await Line.open(url, address, options, signal);
    try {
      const host = url.host;
      await line.write(
        `GET ${url.pathname}${url.search} HTTP/1.1\r\nhost: ${host}\r\nuser-agent: ultracloud-fetcher\r\n` +
          "accept: */*\r\naccept-encoding: identity\r\nconnection: close\r\n\r\n",
      );
      let seen: Uint8Array = new Uint8Array();
      for (;;) {
        const parsed = parseHead(seen);
        // Interim answers (1xx) are passed over.
        if (parsed && parsed.head.status < 200) {
          seen = seen.subarray(parsed.end);
          continue;
        }
        if (parsed) return new Answer(url, line, parsed.head, seen.subarray(parsed.end));
        if (seen.length > headBytesMax) throw malformed(url.host);
        const more = await line.read();
        if (more === undefined) throw malformed(url.host);
        seen = concatBytes([seen, more]);
      }
    } catch (error) {
      line.close();
      throw error;
    }
  }

  /** The content, in order. */
  async *chunks(bytesMax: number): AsyncGenerator<Uint8Array> {
    const line = this.#line;
    const rest = this.#rest;
    let total = 0;
    try {
      const raw = (async function* () {
        if (rest.length > 0) yield rest;
        for (let piece = await line.read(); piece !== undefined; piece = await line.read()) yield piece;
      })();
      for await (const chunk of bodyOf(this.head, raw, this.#url.host)) {
        total += chunk.length;
        if (total > bytesMax) throw tooLarge(total, bytesMax);
        yield chunk;
      }
    } finally {
      line.close();
    }
  }

  close(): void {
    this.#line.close();
  }
}

/** A connection that is cut when nothing comes for too long, or the caller leaves. */
class Line {
  readonly #connection: Deno.Conn;
  readonly #host: string;
  readonly #silenceMsMax: number;
  readonly #signal: AbortSignal;
  readonly #leave = () => this.close();
  #silent = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  private constructor(connection: Deno.Conn, host: string, silenceMsMax: number, signal: AbortSignal) {
    this.#connection = connection;
    this.#host = host;
    this.#silenceMsMax = silenceMsMax;
    this.#signal = signal;
    signal.addEventListener("abort", this.#leave, { once: true });
  }

  static async open(url: URL, address: string, options: FetchOptions, signal: AbortSignal): Promise<Line> {
    const secure = url.protocol === "https:";
    const port = url.port === "" ? secure ? 443 : 80 : Number(url.port);
    const ends = AbortSignal.any([signal, AbortSignal.timeout(options.silenceMsMax)]);
    let tcp: Deno.TcpConn | undefined;
    const cut = () => close(tcp);
    ends.addEventListener("abort", cut, { once: true });
    try {
      tcp = await Deno.connect({ hostname: address, port, signal: ends });
      if (!secure) return new Line(tcp, url.host, options.silenceMsMax, signal);
      const tls = await Deno.startTls(tcp, {
        hostname: url.hostname,
        caCerts: [...options.caCerts ?? []],
        alpnProtocols: ["http/1.1"],
      });
      await tls.handshake();
      return new Line(tls, url.host, options.silenceMsMax, signal);
    } catch (cause) {
      close(tcp);
      signal.throwIfAborted();
      throw unreachable(url.host, cause);
    } finally {
      ends.removeEventListener("abort", cut);
    }
  }

  async write(text: string): Promise<void> {
    const bytes = new TextEncoder().encode(text);
    for (let at = 0; at < bytes.length;) at += await this.#timed(() => this.#connection.write(bytes.subarray(at)));
  }

  /** What comes next; undefined: the server has closed. */
  async read(): Promise<Uint8Array | undefined> {
    const buffer = new Uint8Array(readBytes);
    const n = await this.#timed(() => this.#connection.read(buffer));
    return n === null ? undefined : buffer.subarray(0, n);
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#signal.removeEventListener("abort", this.#leave);
    close(this.#connection);
  }

  async #timed<T>(work: () => Promise<T>): Promise<T> {
    this.#timer = setTimeout(() => {
      this.#silent = true;
      this.close();
    }, this.#silenceMsMax);
    try {
      return await work();
    } catch (cause) {
      this.#signal.throwIfAborted();
      if (!this.#silent) throw unreachable(this.#host, cause);
      const message = `Cannot fetch from ${this.#host} as it has said nothing for ${this.#silenceMsMax} ms`;
      throw fault("deadline_exceeded", "fetch_slow", message, { cause });
    } finally {
      clearTimeout(this.#timer);
    }
  }
}

function close(connection: Deno.Conn | undefined): void {
  try {
    connection?.close();
  } catch {
    // Closed already.
  }
}

function checkedUrl(text: string, { allowPlain }: FetchOptions): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || (url.protocol !== "https:" && url.protocol !== "http:") || url.username !== "") {
    throw fault("invalid_argument", "invalid_url", `Cannot fetch ${text.slice(0, 200)}: wanted https://host/path`, {
      field: "url",
    });
  }
  if (url.protocol === "http:" && !allowPlain) {
    throw fault("invalid_argument", "plain_http", `Cannot fetch from ${url.host} by plain http: wanted https`, {
      field: "url",
    });
  }
  return url;
}

/** The address to connect to; every one that the name has must be allowed. */
async function judged(
  name: string,
  allowed: readonly Range[],
  { resolve }: FetchDeps,
  signal: AbortSignal,
): Promise<string> {
  let addresses: readonly string[] = [name];
  if (parseAddress(name) === undefined && !name.startsWith("[")) {
    try {
      addresses = await resolve(name, signal);
    } catch (cause) {
      signal.throwIfAborted();
      throw fault("unavailable", "host_unresolved", `Cannot look up ${name}`, { cause });
    }
  }
  const bad = addresses.find((address) => !mayReach(address, allowed));
  if (addresses.length > 0 && bad === undefined) return addresses[0]!;
  // What a name of the inside answers is nobody's business outside.
  throw fault("permission_denied", "address_refused", `Cannot fetch from ${name}: wanted public IPv4 addresses only`);
}

function refused(message: string): Error {
  return fault("failed_precondition", "fetch_refused", message);
}

function tooLarge(bytes: number, bytesMax: number): Error {
  const message = `Cannot fetch ${bytes} bytes: wanted at most ${bytesMax}`;
  return fault("resource_exhausted", "content_too_large", message);
}

function malformed(host: string): Error {
  return fault("unavailable", "answer_malformed", `Cannot read what ${host} answers: wanted HTTP/1.1`);
}

function unreachable(host: string, cause: unknown): Error {
  return fault("unavailable", "host_unreachable", `Cannot reach ${host}`, { cause });
}

import { fault } from "@ultracloud/base";
import { mayReach, parseAddress, type Range } from "./domain/addresses.ts";

export interface PostOptions {
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** Private ranges that may be reached all the same. */
  readonly privateRanges: readonly Range[];
  /** Ranges that may not be reached though they are public. */
  readonly deniedRanges?: readonly Range[];
  readonly caCerts: readonly string[];
  readonly timeoutMs: number;
}

export interface PostDeps {
  /** IPv4 addresses of a name. */
  readonly resolve: (
    name: string,
    signal: AbortSignal,
  ) => Promise<readonly string[]>;
}

/** How much of an answer is read: its first line is all that counts. */
const answerBytesMax = 16 * 1024;

/**
 * Posts a body once and answers the status, 100 to 599. The name is looked up here and the connection goes to the very
 * address that was judged, so that no second look-up can answer another one; redirects are not followed. Throws a Fault
 * that says what failed; nothing is said about whether the receiver got it.
 */
export async function post(
  options: PostOptions,
  deps: PostDeps,
  signal: AbortSignal,
): Promise<number> {
  const { url, timeoutMs } = options;
  const ends = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
  const address = await judged(options, deps, ends);
  const secure = url.protocol === "https:";
  const port = url.port === "" ? secure ? 443 : 80 : Number(url.port);
  let connection: Deno.Conn | undefined;
  const abort = () => {
    try {
      connection?.close();
    } catch {
      // Closed already.
    }
  };
  ends.addEventListener("abort", abort);
  try {
    const tcp = await Deno.connect({ hostname: address, port, signal: ends });
    connection = tcp;
    if (secure) {
      const caCerts = [...options.caCerts];
      connection = await Deno.startTls(tcp, {
        hostname: url.hostname,
        caCerts,
        alpnProtocols: ["http/1.1"],
      });
    }
    ends.throwIfAborted();
    await writeAll(connection, requestOf(options));
    return await statusOf(connection);
  } catch (cause) {
    signal.throwIfAborted();
    if (ends.aborted) {
      throw fault(
        "deadline_exceeded",
        "hook_slow",
        `Cannot post to ${url.host} within ${timeoutMs} ms`,
        { cause },
      );
    }
    if (cause instanceof Error && cause.name === "Fault") throw cause;
    throw fault(
      "unavailable",
      "hook_unreachable",
      `Cannot post to ${url.host} at ${address}: ${messageOf(cause)}`,
      { cause },
    );
  } finally {
    ends.removeEventListener("abort", abort);
    abort();
  }
}

/** The address to connect to; every one that the name has must be allowed. */
async function judged(
  { url, privateRanges, deniedRanges }: PostOptions,
  { resolve }: PostDeps,
  signal: AbortSignal,
): Promise<string> {
  const name = url.hostname;
  let addresses: readonly string[] = [name];
  if (parseAddress(name) === undefined && !name.startsWith("[")) {
    try {
      addresses = await resolve(name, signal);
    } catch (cause) {
      throw fault(
        "unavailable",
        "hook_unresolved",
        `Cannot look up ${name}: ${messageOf(cause)}`,
        { cause },
      );
    }
  }
  const refused = addresses.find((address) => !mayReach(address, privateRanges, deniedRanges));
  if (addresses.length === 0 || refused !== undefined) {
    throw fault(
      "permission_denied",
      "hook_address_refused",
      `Cannot post to ${name} at ${refused ?? "no address"}: wanted public IPv4 addresses only`,
    );
  }
  return addresses[0]!;
}

function requestOf({ url, headers, body }: PostOptions): Uint8Array {
  const bytes = new TextEncoder().encode(body);
  const lines = Object.entries({
    host: url.host,
    "user-agent": "ultracloud-fetcher",
    "content-type": "application/json",
    "content-length": String(bytes.length),
    connection: "close",
    ...headers,
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  const head = new TextEncoder().encode(
    `POST ${url.pathname}${url.search} HTTP/1.1\r\n${lines.join("")}\r\n`,
  );
  const all = new Uint8Array(head.length + bytes.length);
  all.set(head);
  all.set(bytes, head.length);
  return all;
}

async function writeAll(
  connection: Deno.Conn,
  bytes: Uint8Array,
): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    at += await connection.write(bytes.subarray(at));
  }
}

/** The status of the final answer; interim ones (1xx) are passed over. */
async function statusOf(connection: Deno.Conn): Promise<number> {
  const buffer = new Uint8Array(answerBytesMax);
  let length = 0, text = "";
  for (;;) {
    const line = /^HTTP\/1\.[01] (\d{3})(?: [^\r\n]*)?\r?\n/.exec(text);
    const status = Number(line?.[1] ?? 0);
    if (line !== null && status >= 200) return status;
    if (line !== null) {
      const end = /\r?\n\r?\n/.exec(text);
      if (end !== null) {
        text = text.slice(end.index + end[0].length);
        continue;
      }
    }
    const read = length < buffer.length ? await connection.read(buffer.subarray(length)) : null;
    if (read === null) {
      const start = JSON.stringify(text.slice(0, 60));
      throw fault(
        "unavailable",
        "hook_answer_malformed",
        `Cannot read the answer ${start}: wanted a status line of HTTP/1.1`,
      );
    }
    text += new TextDecoder("latin1").decode(
      buffer.subarray(length, length + read),
    );
    length += read;
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

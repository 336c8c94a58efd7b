import { type Clock, Fault, fault } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import { create } from "@bufbuild/protobuf";
import { GetConsoleLogRequestSchema, VmService, WriteConsoleRequestSchema } from "@ultracloud/proto/plasmavmc/v1";
import { type Calls, type HttpHandler, type Peer, toFault } from "@ultracloud/rpc";

/** `GET /console/v1?project=ORG/PROJECT&vm=NAME&offset=N`, upgraded. */
const path = "/console/v1";
/** What a client asks for, beside its token: a browser can set no header on a WebSocket. */
const protocol = "ultracloud.console.v1";
const bearer = "ultracloud.bearer.";
/** History shown to whoever says nothing else. */
const historyBytes = 8n * 1024n;
/** Typed, and not yet taken by the guest. */
const aheadBytesMax = 64 * 1024;
/** Said, and not yet taken by the browser: then the guest's words wait in the ring, which loses its oldest. */
const unsentBytesMax = 1024 * 1024;
const unsentLookMs = 20;
/** Close codes of our own: the call behind it failed, or the reader was too slow to type so much. */
const closedByFault = 4000;
const closedByFlood = 4008;

export interface ConsoleSocketDeps {
  readonly clock: Clock;
  readonly log: Logger;
}

/**
 * The serial console for browsers, with the rights of the RPCs behind it. Binary messages are bytes: the guest's, and
 * what is typed. A text message is JSON: `{"offset": "N"}` says where the bytes after it begin, at first and wherever
 * some were lost; `{"error": {"code", "message"}}` comes before the end.
 */
export function consoleSocket(deps: ConsoleSocketDeps): HttpHandler {
  return (request, peer, calls) => {
    const url = new URL(request.url);
    if (url.pathname !== path) return undefined;
    let upgraded: Deno.WebSocketUpgrade;
    const headers = new Headers(request.headers);
    try {
      const asked = protocolsOf(request);
      if (request.headers.get("upgrade")?.toLowerCase() !== "websocket" || !asked.includes(protocol)) {
        return Response.json({ code: "websocket_wanted", message: `Cannot answer without an upgrade to ${protocol}` }, {
          status: 426,
          headers: { upgrade: "websocket" },
        });
      }
      const token = asked.find((one) => one.startsWith(bearer))?.slice(bearer.length);
      if (token !== undefined) headers.set("authorization", `Bearer ${token}`);
      upgraded = Deno.upgradeWebSocket(request, { protocol });
    } catch (error) {
      // A listener with certificates of its own cannot: browsers come by a gateway, which speaks to this one plainly.
      deps.log.debug("console not upgraded", { error: String(error) });
      return Response.json({ code: "websocket_refused", message: "Cannot upgrade this connection" }, { status: 501 });
    }
    const from = {
      project: url.searchParams.get("project") ?? "",
      vm: url.searchParams.get("vm") ?? "",
      offset: url.searchParams.get("offset"),
    };
    const { socket, response } = upgraded;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      new ConsoleSocket(socket, from, { headers, peer, calls, ...deps }).run().catch((error) => {
        deps.log.warn("a console socket ended badly", { error });
      });
    };
    return response;
  };
}

function protocolsOf(request: Request): string[] {
  return (request.headers.get("sec-websocket-protocol") ?? "").split(",").map((one) => one.trim());
}

interface From {
  readonly project: string;
  readonly vm: string;
  readonly offset: string | null;
}

class ConsoleSocket {
  readonly #socket: WebSocket;
  readonly #from: From;
  readonly #deps: ConsoleSocketDeps & { readonly headers: Headers; readonly peer: Peer; readonly calls: Calls };
  readonly #stop = new AbortController();
  #ahead = 0;
  #typing: Promise<void> = Promise.resolve();

  constructor(
    socket: WebSocket,
    from: From,
    deps: ConsoleSocketDeps & { readonly headers: Headers; readonly peer: Peer; readonly calls: Calls },
  ) {
    this.#socket = socket;
    this.#from = from;
    this.#deps = deps;
  }

  /** Until either side leaves. */
  async run(): Promise<void> {
    const left = Promise.withResolvers<void>();
    this.#socket.onclose = () => left.resolve();
    this.#socket.onerror = () => left.resolve();
    this.#socket.onmessage = ({ data }) => this.#type(data);
    left.promise.then(() => this.#stop.abort());
    try {
      await this.#show();
      this.#socket.close(1000);
    } catch (error) {
      if (!this.#stop.signal.aborted) this.#end(toFault(error));
    } finally {
      this.#stop.abort();
      await this.#typing;
    }
  }

  /** The guest's words from the offset on. */
  async #show(): Promise<void> {
    const { calls, clock } = this.#deps;
    const { project, vm } = this.#from;
    const caller = this.#caller();
    const read = () => create(GetConsoleLogRequestSchema, { project, vm, offset: offsetOf(this.#from.offset) });
    let next: bigint | undefined;
    for await (const part of calls.stream(VmService.method.followConsole, caller, read)) {
      const offset = part.offset ?? 0n;
      if (offset !== next) this.#socket.send(JSON.stringify({ offset: String(offset) }));
      next = part.nextOffset;
      this.#socket.send(part.data as Uint8Array<ArrayBuffer>);
      while (this.#socket.bufferedAmount > unsentBytesMax) await clock.sleep(unsentLookMs, this.#stop.signal);
    }
  }

  /** What is typed, in order. */
  #type(data: unknown): void {
    if (this.#stop.signal.aborted) return;
    const bytes = data instanceof ArrayBuffer ? new Uint8Array(data) : undefined;
    if (bytes === undefined || bytes.length === 0) {
      return this.#end(
        fault("invalid_argument", "console_message", "Cannot take a text message: wanted bytes as a binary one"),
      );
    }
    if (this.#ahead + bytes.length > aheadBytesMax) {
      const message = `Cannot take more than ${aheadBytesMax} bytes ahead of the guest`;
      return this.#end(fault("resource_exhausted", "console_ahead", message), closedByFlood);
    }
    this.#ahead += bytes.length;
    const { project, vm } = this.#from;
    this.#typing = this.#typing.then(async () => {
      if (this.#stop.signal.aborted) return;
      try {
        const read = () => create(WriteConsoleRequestSchema, { project, vm, data: bytes });
        await this.#deps.calls.unary(VmService.method.writeConsole, this.#caller(), read);
      } catch (error) {
        if (!this.#stop.signal.aborted) this.#end(toFault(error));
      } finally {
        this.#ahead -= bytes.length;
      }
    });
  }

  /** Says why and closes. */
  #end(error: Fault, code = closedByFault): void {
    this.#stop.abort();
    if (this.#socket.readyState !== WebSocket.OPEN) return;
    this.#socket.send(JSON.stringify({ error: { code: error.code, message: error.message } }));
    this.#socket.close(code, error.code.slice(0, 100));
  }

  #caller() {
    return { headers: this.#deps.headers, signal: this.#stop.signal, peer: this.#deps.peer };
  }
}

function offsetOf(text: string | null): bigint {
  if (text === null) return -historyBytes;
  if (/^-?\d{1,18}$/.test(text)) return BigInt(text);
  throw fault(
    "invalid_argument",
    "invalid_field",
    `Cannot start at ${JSON.stringify(text.slice(0, 40))}: wanted a byte`,
    {
      field: "offset",
    },
  );
}

import { backoffMs, type Clock, type Disk, type Rng } from "@ultracloud/base";
import type { TlsFiles } from "@ultracloud/config";
import type { Logger } from "@ultracloud/observe";
import { RaftPeerService, type SendRequest, SendRequestSchema } from "@ultracloud/proto/raft/v1";
import { create } from "@bufbuild/protobuf";
import type { Message, SnapshotHeader } from "@ultracloud/raft";
import { createRpcClient, type RpcClient } from "@ultracloud/rpc";
import type { SnapshotFile } from "./snapshot_file.ts";
import { sendSnapshotFile } from "./snapshot_sender.ts";
import { messageBytes, safe, toWire } from "./wire.ts";

export interface LinkOptions {
  readonly clusterId: string;
  readonly url: string;
  readonly tls?: TlsFiles | undefined;
}

export interface LinkDeps {
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly authorization: () => string | Promise<string>;
}

/** Messages that wait for one peer; Raft repeats what is dropped. */
const queueBytesMax = 32 * 2 ** 20;
const queueMessagesMax = 8_192;
/** In one piece of the stream: below the size the server accepts. */
export const pieceBytesMax = 4 * 2 ** 20;
/** A peer that answers nothing for this long after something was sent is taken for gone: another connection may do. */
const silenceMsMax = 3_000;
/** The call is authorised when it opens: it is opened anew well within the life of a token. */
const streamMsMax = 120_000;
const callTimeoutMs = 5_000;
/**
 * How long a message that only says what is committed waits for one that is worth waking the peer for: with a caller
 * that puts one after the other, the next append is nearly always there by then.
 */
const holdMs = 1;
const backoff = { baseMs: 20, maxMs: 500, tries: Number.MAX_SAFE_INTEGER };

export interface LinkCounts {
  messages: number;
  /** Pieces that carried them: what wakes the other side. */
  pieces: number;
  bytes: number;
  /** Calls that ended without an answer, and messages dropped as too many waited. */
  failures: number;
}

interface Queued {
  readonly group: number;
  readonly message: Message;
  readonly bytes: number;
}

/** One direction to one peer: a bounded queue that one long call carries, everything that waits in its next piece. */
export class Link {
  readonly #client: RpcClient<typeof RaftPeerService>;
  readonly #options: LinkOptions;
  readonly #deps: LinkDeps;
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;
  readonly counts: LinkCounts = { messages: 0, pieces: 0, bytes: 0, failures: 0 };
  #queue: Queued[] = [];
  #bytes = 0;
  #holding = false;
  #wake: (() => void) | undefined;
  /** The call under way. */
  #call: AbortController | undefined;
  /** When the first message left that nothing was heard after; Infinity when there is none. */
  #unheardSinceMs = Infinity;

  constructor(options: LinkOptions, deps: LinkDeps) {
    this.#options = options;
    this.#deps = deps;
    this.#client = createRpcClient(RaftPeerService, {
      endpoints: [options.url],
      authorization: deps.authorization,
      tls: options.tls,
      timeoutMs: callTimeoutMs,
      retries: 0,
    });
    this.#running = this.#run();
  }

  send(group: number, message: Message): void {
    const bytes = messageBytes(message);
    const now = this.#deps.clock.monotonicMs();
    if (now - this.#unheardSinceMs > silenceMsMax) this.#call?.abort();
    if (this.#queue.length >= queueMessagesMax || this.#bytes + bytes > queueBytesMax) {
      this.counts.failures++;
      return;
    }
    this.#queue.push({ group, message, bytes });
    this.#bytes += bytes;
    if (message.kind === "append" && message.entries.length === 0) this.#hold();
    else this.#wake?.();
  }

  /** What waits leaves soon, or with what comes before that. */
  #hold(): void {
    if (this.#holding) return;
    this.#holding = true;
    this.#deps.clock.sleep(holdMs, this.#stop.signal).then(() => {
      this.#holding = false;
      if (this.#queue.length > 0) this.#wake?.();
    }, () => {});
  }

  /** Something came from the peer, over its own link. */
  heard(): void {
    this.#unheardSinceMs = Infinity;
  }

  async #run(): Promise<void> {
    const { clock, log, rng } = this.#deps;
    for (let failures = 0; !this.#stop.signal.aborted;) {
      await this.#waiting(this.#stop.signal);
      if (this.#stop.signal.aborted) return;
      const call = this.#call = new AbortController();
      const stop = () => call.abort();
      this.#stop.signal.addEventListener("abort", stop, { once: true });
      const openedMs = clock.monotonicMs();
      try {
        await this.#client.send(this.#pieces(call.signal, openedMs + streamMsMax), { signal: call.signal });
        failures = 0;
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        this.counts.failures++;
        // A call that carried for a while was a good one, whatever ended it.
        failures = clock.monotonicMs() - openedMs > silenceMsMax ? 1 : failures + 1;
        if (failures === 1) log.debug("peer does not answer", { error });
        // What waited is old by now: heartbeats and probes start afresh.
        this.#queue = [];
        this.#bytes = 0;
        await clock.sleep(backoffMs(backoff, Math.min(failures, 6), rng), this.#stop.signal).catch(() => {});
      } finally {
        this.#stop.signal.removeEventListener("abort", stop);
        this.#unheardSinceMs = Infinity;
        call.abort();
      }
    }
  }

  /** Resolves when something waits in the queue, or the signal says to stop. */
  #waiting(signal: AbortSignal): Promise<void> {
    if (this.#queue.length > 0 || signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        this.#wake = undefined;
        signal.removeEventListener("abort", done);
        resolve();
      };
      this.#wake = done;
      signal.addEventListener("abort", done, { once: true });
    });
  }

  async *#pieces(signal: AbortSignal, untilMs: number): AsyncGenerator<SendRequest> {
    while (!signal.aborted && this.#deps.clock.monotonicMs() < untilMs) {
      await this.#waiting(signal);
      if (signal.aborted) return;
      if (this.#unheardSinceMs === Infinity) this.#unheardSinceMs = this.#deps.clock.monotonicMs();
      yield this.#take();
    }
  }

  /** The longest run of messages of one group from the front that fits a piece. */
  #take(): SendRequest {
    const { group } = this.#queue[0]!;
    const messages: Message[] = [];
    let bytes = 0;
    for (const queued of this.#queue) {
      if (queued.group !== group || (messages.length > 0 && bytes + queued.bytes > pieceBytesMax)) break;
      messages.push(queued.message);
      bytes += queued.bytes;
    }
    this.#queue.splice(0, messages.length);
    this.#bytes -= bytes;
    this.counts.messages += messages.length;
    this.counts.pieces++;
    this.counts.bytes += bytes;
    const { clusterId } = this.#options;
    return create(SendRequestSchema, { clusterId, group: BigInt(group), messages: messages.map(toWire) });
  }

  async propose(group: number, data: Uint8Array): Promise<{ index: number; term: number }> {
    const { clusterId } = this.#options;
    this.counts.messages++;
    this.counts.bytes += data.length;
    const request = { clusterId, group: BigInt(group), data: data as Uint8Array<ArrayBuffer> };
    try {
      const { index, term } = await this.#client.propose(request, { signal: this.#stop.signal });
      return { index: safe(index), term: safe(term) };
    } catch (error) {
      this.counts.failures++;
      throw error;
    }
  }

  async sendSnapshot(group: number, header: SnapshotHeader, data: SnapshotFile, disk: Disk): Promise<boolean> {
    const what = { clusterId: this.#options.clusterId, group, header, data };
    try {
      const installed = await sendSnapshotFile(what, { ...this.#deps, client: this.#client, disk }, this.#stop.signal);
      this.counts.bytes += data.bytes;
      return installed;
    } catch (error) {
      this.counts.failures++;
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#running;
    this.#client[Symbol.dispose]();
  }
}

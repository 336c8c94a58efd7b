import { backoffMs, type Clock, type Disk, fault, type Rng } from "@ultracloud/base";
import type { TlsFiles } from "@ultracloud/config";
import type { Logger } from "@ultracloud/observe";
import { RaftPeerService } from "@ultracloud/proto/raft/v1";
import type { Message, SnapshotHeader, Transport } from "@ultracloud/raft";
import { createRpcClient, type RpcClient } from "@ultracloud/rpc";
import type { SnapshotFile } from "./snapshot_file.ts";
import { sendSnapshotFile } from "./snapshot_sender.ts";
import { messageBytes, safe, toWire } from "./wire.ts";

export interface PeerTransportOptions {
  readonly clusterId: string;
  /** Peer listener of each other replica, by node id; `setPeer` and `removePeer` change it later. */
  readonly peers: Readonly<Record<number, string>>;
  readonly tls?: TlsFiles | undefined;
}

export interface PeerTransportDeps {
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly authorization: () => string | Promise<string>;
}

/** Messages that wait for one peer; Raft repeats what is dropped. */
const queueBytesMax = 32 * 2 ** 20;
const queueMessagesMax = 8_192;
/** In one call: below the size the server accepts. */
const callBytesMax = 4 * 2 ** 20;
const callTimeoutMs = 5_000;
const backoff = { baseMs: 20, maxMs: 500, tries: Number.MAX_SAFE_INTEGER };

interface Queued {
  readonly group: number;
  readonly message: Message;
  readonly bytes: number;
}

/** One direction to one peer: a bounded queue, one call at a time, everything that waits in the next one. */
class Link {
  readonly #client: RpcClient<typeof RaftPeerService>;
  readonly #clusterId: string;
  readonly #deps: PeerTransportDeps;
  readonly #stop = new AbortController();
  #queue: Queued[] = [];
  #bytes = 0;
  #sending: Promise<void> | undefined;
  #failures = 0;

  constructor(url: string, options: PeerTransportOptions, deps: PeerTransportDeps) {
    this.#clusterId = options.clusterId;
    this.#deps = deps;
    this.#client = createRpcClient(RaftPeerService, {
      endpoints: [url],
      authorization: deps.authorization,
      tls: options.tls,
      timeoutMs: callTimeoutMs,
      retries: 0,
    });
  }

  send(group: number, message: Message): void {
    const bytes = messageBytes(message);
    if (this.#queue.length >= queueMessagesMax || this.#bytes + bytes > queueBytesMax) return;
    this.#queue.push({ group, message, bytes });
    this.#bytes += bytes;
    this.#sending ??= this.#drain().finally(() => this.#sending = undefined);
  }

  async #drain(): Promise<void> {
    while (this.#queue.length > 0 && !this.#stop.signal.aborted) {
      const { group, messages } = this.#take();
      try {
        await this.#client.send({ clusterId: this.#clusterId, group: BigInt(group), messages: messages.map(toWire) }, {
          signal: this.#stop.signal,
        });
        this.#failures = 0;
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        if (++this.#failures === 1) this.#deps.log.debug("peer does not answer", { error });
        // What waited is old by now: heartbeats and probes start afresh.
        this.#queue = [];
        this.#bytes = 0;
        await this.#deps.clock.sleep(backoffMs(backoff, Math.min(this.#failures, 6), this.#deps.rng), this.#stop.signal)
          .catch(() => {});
      }
    }
  }

  /** The longest run of messages of one group from the front that fits a call. */
  #take(): { group: number; messages: Message[] } {
    const { group } = this.#queue[0]!;
    const messages: Message[] = [];
    let bytes = 0;
    let taken = 0;
    for (const queued of this.#queue) {
      if (queued.group !== group || (taken > 0 && bytes + queued.bytes > callBytesMax)) break;
      messages.push(queued.message);
      bytes += queued.bytes;
      taken++;
    }
    this.#queue.splice(0, taken);
    this.#bytes -= bytes;
    return { group, messages };
  }

  async propose(group: number, data: Uint8Array): Promise<{ index: number; term: number }> {
    const request = { clusterId: this.#clusterId, group: BigInt(group), data: data as Uint8Array<ArrayBuffer> };
    const { index, term } = await this.#client.propose(request, { signal: this.#stop.signal });
    return { index: safe(index), term: safe(term) };
  }

  sendSnapshot(group: number, header: SnapshotHeader, data: SnapshotFile, disk: Disk): Promise<boolean> {
    const what = { clusterId: this.#clusterId, group, header, data };
    return sendSnapshotFile(what, { ...this.#deps, client: this.#client, disk }, this.#stop.signal);
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#sending;
    this.#client[Symbol.dispose]();
  }
}

/** Ways to every other replica, shared by the groups of a node. Messages to a replica without an address are dropped. */
export class PeerTransport implements AsyncDisposable {
  readonly #options: PeerTransportOptions;
  readonly #deps: PeerTransportDeps;
  readonly #links = new Map<number, { readonly url: string; readonly link: Link }>();
  readonly #closing = new Set<Promise<void>>();

  constructor(options: PeerTransportOptions, deps: PeerTransportDeps) {
    this.#options = options;
    this.#deps = deps;
    for (const [id, url] of Object.entries(options.peers)) this.setPeer(Number(id), url);
  }

  /** The replica is reached at `url` from now on; what waits for it at another address is dropped. */
  setPeer(id: number, url: string): void {
    if (this.#links.get(id)?.url === url) return;
    this.removePeer(id);
    this.#links.set(id, { url, link: new Link(url, this.#options, this.#deps) });
  }

  /** Nothing goes to the replica any more. */
  removePeer(id: number): void {
    const known = this.#links.get(id);
    if (known === undefined) return;
    this.#links.delete(id);
    const closing: Promise<void> = known.link.close().finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
  }

  /** Asks a replica to log data; answers where. Once: a call that ends without an answer may have logged it. */
  propose(to: number, group: number, data: Uint8Array): Promise<{ readonly index: number; readonly term: number }> {
    const known = this.#links.get(to);
    if (known === undefined) {
      return Promise.reject(
        fault("unavailable", "connect_failed", `Cannot reach replica ${to}: its address is not known`),
      );
    }
    if (data.length > callBytesMax) {
      const message = `Cannot forward ${data.length} bytes to the leader: wanted at most ${callBytesMax}`;
      return Promise.reject(fault("resource_exhausted", "forward_too_large", message));
    }
    return known.link.propose(group, data);
  }

  /** The transport of one group. */
  forGroup(group: number, deps: { readonly disk: Disk; readonly log: Logger }): Transport<SnapshotFile> {
    return {
      send: (messages) => {
        for (const message of messages) this.#links.get(message.to)?.link.send(group, message);
      },
      sendSnapshot: (header, data, done) => {
        const known = this.#links.get(header.to);
        if (known === undefined) return done(false);
        known.link.sendSnapshot(group, header, data, deps.disk).then(done, (error) => {
          deps.log.warn("cannot send a snapshot", { to: header.to, error });
          done(false);
        });
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const id of [...this.#links.keys()]) this.removePeer(id);
    await Promise.all(this.#closing);
  }
}

import { type Disk, fault } from "@ultracloud/base";
import type { TlsFiles } from "@ultracloud/config";
import type { Logger } from "@ultracloud/observe";
import type { Transport } from "@ultracloud/raft";
import { Link, type LinkCounts, type LinkDeps, pieceBytesMax } from "./link.ts";
import type { SnapshotFile } from "./snapshot_file.ts";

export interface PeerTransportOptions {
  readonly clusterId: string;
  /** Peer listener of each other replica, by node id; `setPeer` and `removePeer` change it later. */
  readonly peers: Readonly<Record<number, string>>;
  readonly tls?: TlsFiles | undefined;
}

export type PeerTransportDeps = LinkDeps;

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
    const { clusterId, tls } = this.#options;
    this.#links.set(id, { url, link: new Link({ clusterId, url, tls }, this.#deps) });
  }

  /** Nothing goes to the replica any more. */
  removePeer(id: number): void {
    const known = this.#links.get(id);
    if (known === undefined) return;
    this.#links.delete(id);
    const closing: Promise<void> = known.link.close().finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
  }

  /** What went to each replica since its address is known. */
  sent(): ReadonlyMap<number, Readonly<LinkCounts>> {
    return new Map([...this.#links].map(([id, { link }]) => [id, link.counts]));
  }

  /** Messages came from the replica: the way to it is alive as well. */
  heard(id: number): void {
    this.#links.get(id)?.link.heard();
  }

  /** Asks a replica to log data; answers where. Once: a call that ends without an answer may have logged it. */
  propose(to: number, group: number, data: Uint8Array): Promise<{ readonly index: number; readonly term: number }> {
    const known = this.#links.get(to);
    if (known === undefined) {
      return Promise.reject(
        fault("unavailable", "connect_failed", `Cannot reach replica ${to}: its address is not known`),
      );
    }
    if (data.length > pieceBytesMax) {
      const message = `Cannot forward ${data.length} bytes to the leader: wanted at most ${pieceBytesMax}`;
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

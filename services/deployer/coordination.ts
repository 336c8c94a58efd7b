import type { Client } from "@connectrpc/connect";
import { create, fromJsonString, toJsonString } from "@bufbuild/protobuf";
import { utf8 } from "@ultracloud/base";
import { desiredKey, observedKey } from "@ultracloud/cluster-state";
import type { KvService } from "@ultracloud/proto/chainfire/v1";
import { DesiredSchema, ObservedSystemSchema } from "@ultracloud/proto/deployer/v1";
import { desiredFor } from "./agents.ts";
import type { Core } from "./core.ts";
import { nodeKind } from "./kinds.ts";
import { keepReport } from "./reports.ts";
import { fromObserved } from "./wire.ts";

const observedPrefix = observedKey("");
/** One past the prefix: '0' follows '/'. */
const observedEnd = `${observedPrefix.slice(0, -1)}0`;
const desiredPrefix = desiredKey("");
const desiredEnd = `${desiredPrefix.slice(0, -1)}0`;
const pageKeys = 1_000;

/** Keeps desired and observed systems in chainfire too, for agents that read there. */
export class Coordination {
  readonly #core: Core;
  readonly #kv: Client<typeof KvService>;
  readonly #published = new Map<string, string>();
  /** Until the first look: what a writer before this one has left there. */
  #known = false;
  #readRevision = 0n;

  constructor(core: Core, kv: Client<typeof KvService>) {
    this.#core = core;
    this.#kv = kv;
  }

  async reconcile(signal: AbortSignal): Promise<void> {
    await this.#publish(signal);
    await this.#collect(signal);
  }

  async #publish(signal: AbortSignal): Promise<void> {
    const cluster = await this.#core.states.cluster();
    const names = new Set([
      ...Object.keys(cluster?.nodes ?? {}),
      ...(await this.#core.platform.list(nodeKind)).map(({ name }) => name),
    ]);
    if (!this.#known) await this.#adopt(signal);
    for (const name of names) {
      const text = toJsonString(DesiredSchema, create(DesiredSchema, await desiredFor(this.#core, name)));
      if (this.#published.get(name) === text) continue;
      await this.#kv.put({ key: utf8.encode(desiredKey(name)), value: utf8.encode(text) }, { signal });
      this.#published.set(name, text);
    }
    for (const name of this.#published.keys()) {
      if (names.has(name)) continue;
      await this.#kv.deleteRange({ key: utf8.encode(desiredKey(name)) }, { signal });
      this.#published.delete(name);
    }
  }

  /** Reads what stands there: nodes may have been removed under another writer. */
  async #adopt(signal: AbortSignal): Promise<void> {
    let key = utf8.encode(desiredPrefix);
    for (;;) {
      const page = await this.#kv.range({ key, rangeEnd: utf8.encode(desiredEnd), limit: BigInt(pageKeys) }, {
        signal,
      });
      for (const item of page.kvs) {
        this.#published.set(utf8.decode(item.key).slice(desiredPrefix.length), utf8.decode(item.value));
      }
      if (!page.more) break;
      key = utf8.encode(`${utf8.decode(page.kvs.at(-1)!.key)}\0`);
    }
    this.#known = true;
  }

  async #collect(signal: AbortSignal): Promise<void> {
    let key = utf8.encode(observedPrefix);
    let newest = this.#readRevision;
    for (;;) {
      const page = await this.#kv.range({ key, rangeEnd: utf8.encode(observedEnd), limit: BigInt(pageKeys) }, {
        signal,
      });
      for (const item of page.kvs) {
        if (item.modRevision <= this.#readRevision) continue;
        if (item.modRevision > newest) newest = item.modRevision;
        const name = utf8.decode(item.key).slice(observedPrefix.length);
        try {
          await keepReport(
            this.#core,
            name,
            fromObserved(fromJsonString(ObservedSystemSchema, utf8.decode(item.value))),
          );
        } catch (error) {
          this.#core.platform.log.warn("cannot keep a report from chainfire", { node: name, error: String(error) });
        }
      }
      if (!page.more) break;
      key = utf8.encode(`${utf8.decode(page.kvs.at(-1)!.key)}\0`);
    }
    this.#readRevision = newest;
  }
}

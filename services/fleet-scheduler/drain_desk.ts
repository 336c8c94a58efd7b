import type { Client } from "@connectrpc/connect";
import { utf8 } from "@ultracloud/base";
import {
  type DrainAnswer,
  drainAnswerKey,
  drainPrefix,
  type DrainRequest,
  drainRequestSchema,
} from "@ultracloud/cluster-state";
import type { Platform } from "@ultracloud/platform";
import type { KvService } from "@ultracloud/proto/chainfire/v1";
import type { Drain, FleetNode } from "./domain/types.ts";
import { nodeKind, type Placement, placementPrefix } from "./kinds.ts";

/** Requests looked at in one go. */
const requestsMax = 4096;
const byRequest = "request ";

/**
 * Answers nix-agents that ask for a node without services, by the keys of the cluster state's `drain.ts`. A request is
 * a drain like an operator's that ends with the request.
 */
export class DrainDesk {
  readonly #platform: Platform;
  readonly #kv: Pick<Client<typeof KvService>, "range" | "put" | "deleteRange">;

  constructor(
    deps: { readonly platform: Platform; readonly kv: Pick<Client<typeof KvService>, "range" | "put" | "deleteRange"> },
  ) {
    this.#platform = deps.platform;
    this.#kv = deps.kv;
  }

  /** Looks at all requests and answers once. */
  async serve(signal: AbortSignal): Promise<void> {
    const answers = await this.#texts(`${drainPrefix}answers/`, signal);
    const requests = new Map<string, DrainRequest>();
    for (const [node, text] of await this.#texts(`${drainPrefix}requests/`, signal)) {
      const request = parse(text);
      if (request?.node === node) requests.set(node, request);
      else this.#platform.log.warn("drain request is not understood", { node, text: text.slice(0, 200) });
    }
    await this.#release(requests);
    for (const [node, request] of requests) {
      const answer = JSON.stringify(await this.#answer(request));
      if (answers.get(node) === answer) continue;
      await this.#kv.put({ key: utf8.encode(drainAnswerKey(node)), value: utf8.encode(answer) }, { signal });
    }
    for (const node of answers.keys()) {
      if (!requests.has(node)) await this.#kv.deleteRange({ key: utf8.encode(drainAnswerKey(node)) }, { signal });
    }
  }

  async #texts(prefix: string, signal: AbortSignal): Promise<Map<string, string>> {
    const rangeEnd = utf8.encode(prefix.slice(0, -1) + "0");
    const { kvs } = await this.#kv.range({ key: utf8.encode(prefix), rangeEnd, limit: BigInt(requestsMax) }, {
      signal,
    });
    return new Map(kvs.map((kv) => [utf8.decode(kv.key).slice(prefix.length), utf8.decode(kv.value)]));
  }

  /** Lets nodes work again whose request is gone. */
  async #release(requests: ReadonlyMap<string, DrainRequest>): Promise<void> {
    for (const seen of await this.#platform.list(nodeKind, "")) {
      const by = seen.value.drain?.by;
      if (!by?.startsWith(byRequest) || by === byRequest + requests.get(seen.name)?.id) continue;
      await this.#platform.transact(async (tx) => {
        const node = await tx.find(nodeKind, "", seen.name);
        if (node?.value.drain?.by !== by) return;
        tx.update(nodeKind, node, { value: { ...node.value, drain: null } });
      });
    }
  }

  async #answer(request: DrainRequest): Promise<DrainAnswer> {
    const answer = (state: DrainAnswer["state"], reason: string, remaining = 0): DrainAnswer => ({
      requestId: request.id,
      state,
      reason: reason.slice(0, 1024),
      remaining,
    });
    return await this.#platform.transact(async (tx) => {
      const node = await tx.find(nodeKind, "", request.node);
      if (!node) return answer("refused", `no node-agent of ${request.node} has registered`);
      let { drain } = node.value;
      const own = drain?.by === byRequest + request.id;
      if (drain === null || drain.phase === "failed" && !own) {
        if (request.deadlineMs <= tx.nowMs) return answer("refused", "the request's deadline has passed");
        drain = newDrain(byRequest + request.id, { deadlineMs: request.deadlineMs, force: false }, tx.nowMs, 0);
        tx.update(nodeKind, node, { value: { ...node.value, drain } satisfies FleetNode });
      }
      if (drain.phase === "drained") return answer("granted", "");
      if (drain.phase === "failed") return answer("refused", drain.reason);
      let remaining = 0;
      for (const { value } of await tx.rows<Placement>(placementPrefix)) {
        remaining += value.instances.filter((instance) => instance.node === request.node).length;
      }
      return answer("draining", drain.reason, remaining);
    });
  }
}

export function newDrain(
  by: string,
  o: { readonly deadlineMs: number; readonly force: boolean },
  nowMs: number,
  total: number,
): Drain {
  const atDeadline = o.force ? "force" : "abort";
  return { startMs: nowMs, deadlineMs: o.deadlineMs, atDeadline, by, phase: "draining", total, reason: "" };
}

function parse(text: string): DrainRequest | undefined {
  try {
    return drainRequestSchema.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}

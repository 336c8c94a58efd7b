import { type Kind, type Platform, type StoredRecord } from "@ultracloud/platform";
import {
  aclKind,
  floatingIpKind,
  gatewayKind,
  groupKind,
  hostKind,
  peeringKind,
  poolKind,
  portKind,
  routerKind,
  subnetKind,
  vpcKind,
} from "../kinds.ts";
import type { NetworkState } from "./state.ts";

/** While the store cannot be followed, changes are looked for this often. */
const retryMs = 500;

const kinds = {
  vpcs: vpcKind,
  subnets: subnetKind,
  groups: groupKind,
  ports: portKind,
  acls: aclKind,
  routers: routerKind,
  pools: poolKind,
  gateways: gatewayKind,
  floatingIps: floatingIpKind,
  peerings: peeringKind,
  hosts: hostKind,
} as const satisfies Record<keyof NetworkState, Kind<unknown>>;
const parts = Object.keys(kinds) as (keyof NetworkState)[];

/** The records of the network, kinds read again only when one of theirs has changed. */
export class StateReader {
  readonly #platform: Platform;
  readonly #held = new Map<keyof NetworkState, readonly StoredRecord[]>();
  readonly #stale = new Set<keyof NetworkState>(parts);

  constructor(platform: Platform) {
    this.#platform = platform;
  }

  /** Everything is read again next time. */
  distrust(): void {
    for (const part of parts) this.#stale.add(part);
  }

  async read(): Promise<NetworkState> {
    const stale = [...this.#stale];
    this.#stale.clear();
    try {
      // A port is never newer than what it is made of: what others name is read after them.
      for (const part of stale.toReversed()) {
        this.#held.set(part, await this.#platform.list(kinds[part] as Kind<unknown>));
      }
    } catch (error) {
      for (const part of stale) this.#stale.add(part);
      throw error;
    }
    return Object.fromEntries(this.#held) as unknown as NetworkState;
  }

  /** Calls `changed` after every write of the records until the signal, and whenever some may have been missed. */
  async follow(changed: () => void, signal: AbortSignal): Promise<void> {
    const { kv, clock, log } = this.#platform;
    while (!signal.aborted) {
      try {
        const batches = kv.watch("records", "", undefined, signal);
        for await (const { changes } of batches) {
          for (const { key } of changes) {
            const part = parts.find((name) => key.startsWith(`${kinds[name].name}|`));
            if (part) this.#stale.add(part);
          }
          changed();
        }
      } catch (error) {
        if (signal.aborted) return;
        log.debug("cannot follow the records", { error: String(error) });
      }
      this.distrust();
      changed();
      await clock.sleep(retryMs, signal).catch(() => {});
    }
  }
}

import type { Client } from "@connectrpc/connect";
import { create, fromJsonString, toJsonString } from "@bufbuild/protobuf";
import { type Clock, Fault, fault, utf8 } from "@ultracloud/base";
import {
  desiredKey,
  type DesiredSystem,
  desiredSystemSchema,
  observedKey,
  type SystemState,
  trustedKeySchema,
} from "@ultracloud/cluster-state";
import type { KvService } from "@ultracloud/proto/chainfire/v1";
import {
  type AgentService,
  type Desired,
  DesiredSchema,
  ObservedSystemSchema,
  SystemState as WireState,
} from "@ultracloud/proto/deployer/v1";
import { z } from "zod";
import type { Cache } from "./nix.ts";

/** What the node should become, checked: everything in it may end up on a command line. */
export interface Wish {
  /** Empty: nothing is wished. */
  readonly intentId: string;
  readonly system: DesiredSystem | undefined;
  readonly cache: Cache;
  readonly quarantineReason: string;
}

export interface Observation {
  readonly state: SystemState;
  readonly reason: string;
  readonly intentId: string;
  readonly currentSystem: string;
  readonly targetSystem: string;
  readonly generation: number;
  readonly bootId: string;
  readonly agentVersion: string;
}

/** Who says what the node should become, and is told what it is. */
export interface Source {
  readonly name: "deployer" | "chainfire";
  /** The wish; it may wait up to `waitMs` for another one than `known`. */
  wish(known: string, waitMs: number, signal: AbortSignal): Promise<Wish>;
  report(observation: Observation, signal: AbortSignal): Promise<void>;
}

const wireStates: Readonly<Record<SystemState, WireState>> = {
  "idle": WireState.IDLE,
  "preflight": WireState.PREFLIGHT,
  "copying": WireState.COPYING,
  "activating": WireState.ACTIVATING,
  "verifying": WireState.VERIFYING,
  "active": WireState.ACTIVE,
  "rolled-back": WireState.ROLLED_BACK,
  "failed": WireState.FAILED,
};

const toWire = (observation: Observation) => ({ ...observation, state: wireStates[observation.state] });

function fromWire(desired: Desired): Wish {
  const { intentId, system, binaryCacheUrl, trustedKeys, quarantineReason } = desired;
  if (intentId === "" || system === undefined) {
    return { intentId: "", system: undefined, cache: { url: "", trustedKeys: [] }, quarantineReason: "" };
  }
  try {
    const parsed = desiredSystemSchema.parse({
      target_system: system.targetSystem,
      activation: system.activation,
      pre_switch_checks: system.preSwitchChecks.map(({ argv }) => argv),
      ...(system.healthCheckCommand === undefined ? {} : { health_check_command: system.healthCheckCommand.argv }),
      health_check_grace_ms: Number(system.healthCheckGraceMs),
      health_check_timeout_ms: Number(system.healthCheckTimeoutMs),
      health_check_attempts: system.healthCheckAttempts,
      health_check_interval_ms: Number(system.healthCheckIntervalMs),
      contact_timeout_ms: Number(system.contactTimeoutMs),
      free_bytes_min: Number(system.freeBytesMin),
      drain: system.drain,
      drain_timeout_ms: Number(system.drainTimeoutMs),
    });
    const cache = {
      url: z.union([z.literal(""), z.url({ protocol: /^https?$/ })]).parse(binaryCacheUrl),
      trustedKeys: z.array(trustedKeySchema).max(16).parse(trustedKeys),
    };
    return { intentId: z.string().regex(/^[0-9a-f]{1,64}$/).parse(intentId), system: parsed, cache, quarantineReason };
  } catch (cause) {
    throw fault(
      "invalid_argument",
      "wish_invalid",
      `Cannot use what the node should become: ${cause instanceof z.ZodError ? z.prettifyError(cause) : cause}`,
      { cause },
    );
  }
}

/** Reads at the deployer and reports there. */
export function deployerSource(node: string, client: Client<typeof AgentService>): Source {
  return {
    name: "deployer",
    async wish(known, waitMs, signal) {
      // The call is given longer than the wait it asks for.
      const call = { signal, timeoutMs: waitMs + 10_000 };
      return fromWire(await client.getDesired({ node, knownIntentId: known, waitMs: Math.min(waitMs, 60_000) }, call));
    },
    async report(observation, signal) {
      await client.reportObserved({ node, observed: toWire(observation) }, { signal });
    },
  };
}

/** Reads what the deployer has put into chainfire and reports there: works while no deployer is up. */
export function chainfireSource(
  node: string,
  kv: Client<typeof KvService>,
  deps: { readonly clock: Clock },
): Source {
  const lookMs = 500;
  const read = async (signal: AbortSignal): Promise<Wish> => {
    const { kvs: [item] } = await kv.range({ key: utf8.encode(desiredKey(node)) }, { signal });
    if (item === undefined) return fromWire(create(DesiredSchema));
    try {
      return fromWire(fromJsonString(DesiredSchema, utf8.decode(item.value)));
    } catch (cause) {
      if (cause instanceof Fault) throw cause;
      throw fault(
        "invalid_argument",
        "wish_invalid",
        `Cannot read ${desiredKey(node)} as what the node should become`,
        {
          cause,
        },
      );
    }
  };
  return {
    name: "chainfire",
    async wish(known, waitMs, signal) {
      const endMs = deps.clock.monotonicMs() + (known === "" ? 0 : waitMs);
      for (;;) {
        const wish = await read(signal);
        if (wish.intentId !== known || deps.clock.monotonicMs() >= endMs) return wish;
        await deps.clock.sleep(lookMs, signal);
      }
    },
    async report(observation, signal) {
      const text = toJsonString(ObservedSystemSchema, create(ObservedSystemSchema, toWire(observation)));
      await kv.put({ key: utf8.encode(observedKey(node)), value: utf8.encode(text) }, { signal });
    },
  };
}

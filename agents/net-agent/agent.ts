import type { Client } from "@connectrpc/connect";
import type { HostService } from "@ultracloud/proto/prismnet/v1";
import type { NetAgentConfig } from "./config.ts";
import type { BoundService } from "@ultracloud/rpc";
import { type HostDeps, NetHost, southboundArgs, type WantedPort } from "./host.ts";
import { Insight } from "./insight.ts";
import { netAgentService } from "./service.ts";

/** How long prismnet may hold a call while nothing changes. */
const waitMs = 5_000;
const retryMs = 500;
/** How often the host is made what is wanted, whatever was told: devices vanish and people change things. */
const applyMs = 1_000;
/** What was just changed is looked at again soon: the switch numbers a port some milliseconds later. */
const againMsMin = 25;
/** Share of the time that looking at an unchanged host may take: a thousand taps are looked at less often. */
const lookShare = 0.05;
/** How often all wanted ports are asked for, not only what has changed. */
const completeEveryMs = 60_000;
/** Ports in trouble that are told at a time. */
const troublesMax = 4_096;

export interface AgentDeps extends HostDeps {
  readonly hosts: Pick<Client<typeof HostService>, "syncHost">;
}

export interface NetAgent extends AsyncDisposable {
  /** To be served at once. */
  readonly service: BoundService;
}

/**
 * Starts the agent: daemons, switch and taps, kept what prismnet wants. While prismnet does not answer, what was last
 * wanted stays. Disposing of it leaves daemons and taps alone: traffic goes on.
 */
export function openNetAgent(config: NetAgentConfig, deps: AgentDeps): NetAgent {
  const { clock, log, health } = deps;
  const stop = new AbortController();
  const { signal } = stop;
  const options = { ...config, tls: config.rpc.tls };
  const host = new NetHost(options, deps);
  const insight = new Insight(host, southboundArgs(options), deps.programs);
  let wanted: Map<string, WantedPort> | undefined;
  let fingerprint = "";
  let completeMs = 0;
  let changed = new AbortController();
  health.set("prismnet", "starting", "not yet asked");
  health.set("switch", "starting", "not yet set up");

  const asking = (async () => {
    let reached = false;
    while (!signal.aborted) {
      try {
        // Now and then all is asked for, whatever changes have been told.
        if (clock.monotonicMs() - completeMs > completeEveryMs) fingerprint = "";
        const answer = await deps.hosts.syncHost({
          host: config.nodeName,
          agentUrl: config.agentUrl ?? `${config.rpc.tls ? "https" : "http"}://${config.rpc.listen}`,
          uplinks: config.uplinks.map(({ name }) => name),
          ports: host.observed().filter(({ up }) => !up).slice(0, troublesMax)
            .map(({ logicalPort, up, error }) => ({ portId: logicalPort, up, error })),
          fingerprint,
          waitMs,
        }, { signal, timeoutMs: waitMs * 2 });
        if (!answer.partial) {
          wanted = new Map();
          completeMs = clock.monotonicMs();
        }
        for (const { portId, device, mtu, guardMac } of answer.ports) {
          wanted!.set(portId, { portId, device, mtu, guardMac });
        }
        for (const portId of answer.removedPortIds) wanted!.delete(portId);
        fingerprint = answer.fingerprint;
        if (!answer.partial || answer.ports.length + answer.removedPortIds.length > 0) changed.abort();
        if (!reached) health.set("prismnet", "ready");
        reached = true;
      } catch (error) {
        if (signal.aborted) return;
        health.set("prismnet", wanted === undefined ? "starting" : "degraded", "prismnet does not answer");
        if (reached) log.warn("prismnet does not answer", { error: String(error) });
        reached = false;
        await clock.sleep(retryMs, signal).catch(() => {});
      }
    }
  })();

  const guarding = (async () => {
    while (!signal.aborted) {
      // Ends with every vswitchd; what it missed meanwhile is seen by the next look at the host.
      await host.guard.watch(() => changed.abort(), signal).catch(() => {});
      await clock.sleep(retryMs, signal).catch(() => {});
    }
  })();

  const applying = (async () => {
    let failing = false;
    let againMs = againMsMin;
    while (!signal.aborted) {
      changed = new AbortController();
      const begin = clock.monotonicMs();
      let done = 0;
      try {
        // Before prismnet has said what is wanted nothing is known to be unwanted: guests may be running.
        if (wanted === undefined) await host.prepare();
        else done = await host.apply([...wanted.values()]);
        if (wanted !== undefined && done === 0) health.set("switch", "ready");
        if (done > 0) log.debug("host changed", { changes: done });
        failing = false;
      } catch (error) {
        if (signal.aborted) return;
        if (!failing) log.warn("cannot set up the host", { error: String(error) });
        failing = true;
        health.set("switch", "starting", error instanceof Error ? error.message : String(error));
      }
      const looked = Math.max(applyMs, (clock.monotonicMs() - begin) / lookShare);
      // What does not settle, as a device that cannot be made, is looked at less and less often.
      againMs = done > 0 && !changed.signal.aborted ? againMs * 2 : againMsMin;
      const pauseMs = done > 0 ? Math.min(againMs, looked) : looked;
      await clock.sleep(pauseMs, AbortSignal.any([signal, changed.signal])).catch(() => {});
    }
  })();

  return {
    service: netAgentService(insight),
    async [Symbol.asyncDispose]() {
      stop.abort();
      await Promise.all([asking, applying, guarding]);
      await host[Symbol.asyncDispose]();
    },
  };
}

import assert from "node:assert/strict";
import {
  FleetNodeService,
  FleetService,
  type Instance,
  InstancePhase,
  type Node,
  NodeState,
  type Service,
  UpdatePhase,
} from "@ultracloud/proto/fleetscheduler/v1";
import type { LaneRun } from "./lane.ts";
import { waitFor } from "./wait.ts";

/** A line that an instance writes ten times a second while it runs: `uptime node instance`. */
export interface Beat {
  readonly at: number;
  readonly node: string;
  readonly instance: string;
}

/** The services of the hosts as a lane sees them. */
export class Fleet {
  readonly #run: LaneRun;
  /** Directory that every node sees; instances write their beats there. */
  readonly dir: string;

  constructor(run: LaneRun) {
    this.#run = run;
    this.dir = `${run.artifactsDir}/beats`;
  }

  get services() {
    return this.#run.cluster.clients.of(FleetService, "fleet-scheduler", { timeoutMs: 20_000 });
  }

  get nodes() {
    return this.#run.cluster.clients.of(FleetNodeService, "fleet-scheduler", { timeoutMs: 20_000 });
  }

  /** A service whose instances beat; `extra` goes over the spec. */
  beating(service: string, extra: Record<string, unknown> = {}, prefix = "") {
    const file = `${this.dir}/${service}.$UC_INSTANCE`;
    const script = `${prefix} exec 3>> ${file}; trap 'exit 0' TERM; ` +
      `while :; do read up rest < /proc/uptime; echo "$up $UC_NODE $UC_INSTANCE" >&3; sleep 0.1; done`;
    return {
      command: ["/bin/sh", "-c", script],
      update: { minHealthyMs: 500, deadlineMs: 30_000 },
      restart: { backoffMsMin: 100, backoffMsMax: 2_000 },
      lostReplaceDelayMs: 2_000,
      stopGraceMs: 5_000,
      ...extra,
    };
  }

  async apply(service: string, spec: ReturnType<Fleet["beating"]>): Promise<void> {
    await this.services.applyService({ name: service, spec });
  }

  async service(name: string): Promise<Service> {
    return await this.services.getService({ name });
  }

  async instances(service = ""): Promise<Instance[]> {
    return (await this.services.listInstances({ service })).instances;
  }

  async node(name: string): Promise<Node> {
    return await this.nodes.getNode({ name });
  }

  /** Waits until the service runs on exactly these nodes, once each, and nothing of it is on the way. */
  async settled(service: string, nodes: readonly string[], timeoutMs = 60_000): Promise<Instance[]> {
    const what = `${service} on ${nodes.join(" and ")}`;
    return await waitFor({ timeoutMs, what, everyMs: 100, signal: this.#run.signal }, async () => {
      const all = await this.instances(service);
      const up = all.filter(({ phase, stopping }) =>
        !stopping && (phase === InstancePhase.RUNNING || phase === InstancePhase.HEALTHY)
      );
      const places = up.map(({ node }) => node).sort().join();
      assert.ok(all.length === up.length && places === [...nodes].sort().join(), JSON.stringify(summary(all)));
      return up;
    });
  }

  /** Waits until the last change of the service stands, or has been taken back. */
  async updated(service: string, phase = UpdatePhase.NONE): Promise<Service> {
    const what = `${service} to be ${UpdatePhase[phase]}`;
    return await waitFor({ timeoutMs: 90_000, what, everyMs: 100, signal: this.#run.signal }, async () => {
      const seen = await this.service(service);
      assert.equal(UpdatePhase[seen.phase], UpdatePhase[phase], seen.reason);
      return seen;
    });
  }

  async nodeIs(name: string, state: NodeState, timeoutMs = 60_000): Promise<Node> {
    const what = `${name} to be ${NodeState[state]}`;
    return await waitFor({ timeoutMs, what, everyMs: 100, signal: this.#run.signal }, async () => {
      const node = await this.node(name);
      return node.state === state ? node : undefined;
    });
  }

  async beats(service: string): Promise<Beat[]> {
    const beats: Beat[] = [];
    for await (const { name } of Deno.readDir(this.dir)) {
      if (!name.startsWith(`${service}.`)) continue;
      for (const line of (await Deno.readTextFile(`${this.dir}/${name}`)).split("\n")) {
        const [at, node, instance, more] = line.split(" ");
        // A node that lost its power may have left half a line.
        if (instance && more === undefined) beats.push({ at: Number(at), node: node!, instance });
      }
    }
    return beats.sort((a, b) => a.at - b.at);
  }

  /**
   * Asserts that of a service that must not run twice no two instances ever beat in turn: all beats of one are before
   * all of the next. Answers how many instances there were, and the longest silence between two, in seconds.
   */
  async neverTwice(service: string): Promise<{ instances: number; beats: number; longestGap: number }> {
    const beats = await this.beats(service);
    const seen = new Set<string>();
    let current = "", longestGap = 0;
    for (const [i, beat] of beats.entries()) {
      if (beat.instance !== current) {
        assert.ok(
          !seen.has(beat.instance),
          `${beat.instance} on ${beat.node} beat at ${beat.at} s after ${current} had begun: two ran at a time`,
        );
        seen.add(current = beat.instance);
      }
      if (i > 0) longestGap = Math.max(longestGap, beat.at - beats[i - 1]!.at);
    }
    return { instances: seen.size, beats: beats.length, longestGap: Math.round(longestGap * 100) / 100 };
  }
}

export function summary(instances: readonly Instance[]) {
  return instances.map(({ id, node, phase, stopping, reason }) => ({
    id,
    node,
    phase: stopping ? "stopping" : InstancePhase[phase],
    ...(reason === "" ? {} : { reason }),
  }));
}

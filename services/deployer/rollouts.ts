import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { checkName, fault } from "@ultracloud/base";
import { type ClusterState, type DesiredSystem, rolloutNodes, rolloutOf } from "@ultracloud/cluster-state";
import { Tx } from "@ultracloud/platform";
import { type QuarantineSchema, RolloutSchema, RolloutService, RolloutState } from "@ultracloud/proto/deployer/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Core, NodeFacts } from "./core.ts";
import { decide, type Decision, type RolloutMember } from "./domain/rollout.ts";
import { sha256Hex } from "./hashes.ts";
import { nodeKind, type ObservedRow, type OfferRow, type QuarantineRow, type RolloutRow, rowKeys } from "./kinds.ts";

/** Everything rollouts are decided from, as of one look. */
interface Look {
  readonly cluster: ClusterState;
  readonly nodes: ReadonlyMap<string, NodeFacts>;
  readonly desired: ReadonlyMap<string, DesiredSystem>;
  readonly observed: ReadonlyMap<string, ObservedRow>;
  readonly offers: ReadonlyMap<string, OfferRow>;
  readonly quarantines: readonly QuarantineRow[];
}

interface Judged {
  readonly row: RolloutRow;
  readonly members: readonly RolloutMember[];
  readonly decision: Decision;
}

const states: Readonly<Record<Decision["state"], RolloutState>> = {
  done: RolloutState.DONE,
  running: RolloutState.RUNNING,
  paused: RolloutState.PAUSED,
  halted: RolloutState.HALTED,
  aborted: RolloutState.ABORTED,
};

export class Rollouts {
  readonly #core: Core;

  constructor(core: Core) {
    this.#core = core;
  }

  async #look(): Promise<Look | undefined> {
    const core = this.#core;
    const cluster = await core.states.cluster();
    if (cluster === undefined) return undefined;
    const tx = new Tx(core.platform.kv, core.platform);
    const below = async <T>(prefix: string) =>
      new Map((await tx.rows<T>(prefix)).map(({ key, value }) => [key.slice(prefix.length), value]));
    const [records, observed, offers, quarantines] = await Promise.all([
      core.platform.list(nodeKind),
      below<ObservedRow>(rowKeys.observed("")),
      below<OfferRow>(rowKeys.offer("")),
      below<QuarantineRow>(rowKeys.quarantines),
    ]);
    const byName = new Map(records.map((record) => [record.name, record]));
    const nodes = new Map<string, NodeFacts>();
    const desired = new Map<string, DesiredSystem>();
    for (const name of new Set([...Object.keys(cluster.nodes), ...byName.keys()])) {
      const node = core.join(cluster, byName.get(name), name);
      nodes.set(name, node);
      const wish = core.desiredOf(cluster, node);
      if (wish !== undefined) desired.set(name, wish);
    }
    return { cluster, nodes, desired, observed, offers, quarantines: [...quarantines.values()] };
  }

  /** Offers what may change now. Run where this replica writes. */
  async reconcile(): Promise<void> {
    const look = await this.#look();
    if (look === undefined) return;
    await this.#liftQuarantines(look);
    const { desired, offers, nodes, cluster } = look;
    for (const name of nodes.keys()) {
      const wish = desired.get(name);
      const offer = offers.get(name);
      if (wish === undefined) {
        if (offer !== undefined) await this.#core.writer.change((tx) => tx.deleteRow(rowKeys.offer(name)));
        continue;
      }
      const inRollout = cluster.nodes[name] !== undefined && rolloutOf(cluster, name) !== undefined;
      if (!inRollout && !this.#isQuarantined(look, name)) await this.#offer(name, wish, offer);
    }
    for (const name of Object.keys(cluster.rollouts)) {
      const { decision, row } = await this.#judge(look, name);
      for (const node of decision.offer) await this.#offer(node, desired.get(node)!, offers.get(node));
      if (decision.offer.length === 0) continue;
      await this.#core.writer.change((tx) => tx.putRow(rowKeys.rollout(name), { ...row, batch: row.batch + 1 }));
      this.#core.platform.log.info("batch begins", { rollout: name, batch: row.batch + 1, nodes: decision.offer });
    }
  }

  async #offer(name: string, wish: DesiredSystem, before: OfferRow | undefined): Promise<void> {
    const intentId = this.#core.intentOf(wish);
    if (before?.intentId === intentId) return;
    await this.#core.writer.change((tx) => {
      const row: OfferRow = { intentId, system: wish, offeredMs: tx.nowMs };
      tx.putRow(rowKeys.offer(name), row);
    });
    this.#core.platform.log.info("system offered", { node: name, system: wish.target_system, intent: intentId });
  }

  #isQuarantined({ nodes, desired, quarantines }: Look, name: string): boolean {
    const group = this.#core.groupOf(nodes.get(name)!);
    const wish = desired.get(name)!;
    return quarantines.some((q) =>
      q.class === group && q.targetSystem === wish.target_system && q.intent === wish.intent
    );
  }

  /** A quarantine holds for as long as somebody of its class still wants the same. */
  async #liftQuarantines(look: Look): Promise<void> {
    for (const { class: group, targetSystem, intent } of look.quarantines) {
      const wanted = [...look.desired].some(([name, wish]) =>
        this.#core.groupOf(look.nodes.get(name)!) === group && wish.target_system === targetSystem &&
        wish.intent === intent
      );
      if (wanted) continue;
      await this.#core.writer.change((tx) => tx.deleteRow(rowKeys.quarantine(group, targetSystem)));
      this.#core.platform.log.info("quarantine lifted", { class: group, system: targetSystem });
    }
  }

  async #judge(look: Look, name: string): Promise<Judged> {
    const { platform, options } = this.#core;
    const spec = look.cluster.rollouts[name]!;
    const nowMs = platform.clock.nowMs();
    const members = rolloutNodes(look.cluster, name).map((node): RolloutMember => {
      const wish = look.desired.get(node);
      const seen = look.observed.get(node);
      return {
        name: node,
        pool: look.cluster.nodes[node]!.pool,
        desiredIntent: wish && this.#core.intentOf(wish),
        offeredIntent: look.offers.get(node)?.intentId,
        observed: seen && { intent: seen.intentId, state: seen.state, sinceMs: seen.sinceMs },
        reachable: seen !== undefined && nowMs - seen.reportedMs < options.unreachableMs,
        quarantined: wish !== undefined && this.#isQuarantined(look, node),
      };
    });
    const signature = sha256Hex(JSON.stringify(members.map((member) => [member.name, member.desiredIntent ?? ""])));
    const kept = await new Tx(platform.kv, platform).row<RolloutRow>(rowKeys.rollout(name));
    const row: RolloutRow = kept?.signature === signature
      ? kept
      : { signature, paused: false, aborted: false, failuresAccepted: 0, batch: 0 };
    const readyMin = new Map(Object.entries(look.cluster.pools).map(([pool, { readyMin }]) => [pool, readyMin]));
    return { row, members, decision: decide(spec, row, members, readyMin, nowMs) };
  }

  async view(name: string): Promise<MessageInitShape<typeof RolloutSchema>> {
    const look = await this.#look();
    if (look?.cluster.rollouts[name] === undefined) throw rolloutNotFound(name);
    return await this.#view(look, name);
  }

  async #view(look: Look, name: string): Promise<MessageInitShape<typeof RolloutSchema>> {
    const { row, members, decision } = await this.#judge(look, name);
    const spec = look.cluster.rollouts[name]!;
    const groups = new Set(members.map((member) => this.#core.groupOf(look.nodes.get(member.name)!)));
    return {
      name,
      state: states[decision.state],
      reason: decision.reason,
      batch: row.batch,
      batchSize: spec.batchSize,
      maxUnavailable: spec.maxUnavailable,
      nodes: members.map((member) => ({
        node: member.name,
        phase: decision.phases.get(member.name)!,
        reason: look.observed.get(member.name)?.reason ?? "",
        targetSystem: look.desired.get(member.name)?.target_system ?? "",
      })),
      quarantines: look.quarantines.filter((q) => groups.has(q.class)).map(toQuarantine),
    };
  }

  async list() {
    const look = await this.#look();
    if (look === undefined) return { rollouts: [], quarantines: [] };
    const names = Object.keys(look.cluster.rollouts);
    return {
      rollouts: await Promise.all(names.map((name) => this.#view(look, name))),
      quarantines: look.quarantines.map(toQuarantine),
    };
  }

  /** Writes what an operator decided about a rollout as it stands. */
  async order(name: string, change: (row: RolloutRow, judged: Judged) => RolloutRow): Promise<void> {
    const look = await this.#look();
    if (look?.cluster.rollouts[name] === undefined) throw rolloutNotFound(name);
    const judged = await this.#judge(look, name);
    const row = change(judged.row, judged);
    await this.#core.writer.change((tx) => tx.putRow(rowKeys.rollout(name), row), { serialize: `rollout/${name}` });
  }
}

function rolloutNotFound(name: string) {
  return fault("not_found", "rollout_not_found", `Cannot find rollout ${JSON.stringify(name.slice(0, 80))}`);
}

function toQuarantine(row: QuarantineRow): MessageInitShape<typeof QuarantineSchema> {
  const { class: group, targetSystem, node, reason, timeMs } = row;
  return { class: group, targetSystem, node, reason, time: timestampFromMs(timeMs) };
}

export function rolloutService(core: Core, rollouts: Rollouts): BoundService {
  const root = () => "";
  const ordered = async (given: string, what: string, change: Parameters<Rollouts["order"]>[1]) => {
    const name = checkName(given, "rollout");
    await rollouts.order(name, change);
    core.platform.log.info("rollout ordered", { rollout: name, order: what });
    return await rollouts.view(name);
  };
  const refuse = (code: string, message: string) => fault("failed_precondition", code, message);
  return bind(RolloutService, {
    getRollout: (request) => rollouts.view(checkName(request.rollout, "rollout")),
    listRollouts: () => rollouts.list(),
    pauseRollout: ({ rollout }) =>
      ordered(rollout, "pause", (row) => {
        if (row.aborted) throw refuse("rollout_aborted", `Cannot pause ${rollout} as it was aborted`);
        return { ...row, paused: true };
      }),
    resumeRollout: ({ rollout }) =>
      ordered(rollout, "resume", (row, { decision }) => {
        if (row.aborted) {
          throw refuse("rollout_aborted", `Cannot resume ${rollout} as it was aborted: wanted a new intent`);
        }
        const failures = [...decision.phases.values()].filter((phase) => phase === "rolled-back" || phase === "failed");
        return { ...row, paused: false, failuresAccepted: failures.length };
      }),
    abortRollout: ({ rollout }) => ordered(rollout, "abort", (row) => ({ ...row, aborted: true })),
  }, {
    getRollout: { resource: "rollout", action: "get", scope: root },
    listRollouts: { resource: "rollout", action: "list", scope: root },
    pauseRollout: { resource: "rollout", action: "pause", scope: root },
    resumeRollout: { resource: "rollout", action: "resume", scope: root },
    abortRollout: { resource: "rollout", action: "abort", scope: root },
  });
}

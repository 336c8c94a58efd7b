import { checkName, fault, invalidField } from "@ultracloud/base";
import { type ClusterState, identityOf, type Refusal } from "@ultracloud/cluster-state";
import { Tx } from "@ultracloud/platform";
import { z } from "zod";
import type { Core, NodeFacts } from "./core.ts";
import { emptyNode, type MachineRow, type MarkerRow, markersMax, nodeKind, type NodeValue, rowKeys } from "./kinds.ts";
import { checkToken, putToken } from "./tokens.ts";

const word = z.string().max(256).default("");
const diskSchema = z.strictObject({
  by_id: z.array(z.string().max(256)).max(32).default([]),
  serial: word,
  bytes_count: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER),
  wwn: word,
  model: word,
  boot_medium: z.boolean().default(false),
  signatures: z.array(z.string().max(64)).max(32).default([]),
  owner_node: word,
});
const factsSchema = z.strictObject({
  serial: word,
  machine_id: word,
  vendor: word,
  product: word,
  architecture: word,
  cpus: z.number().int().min(0).max(65_536).default(0),
  memory_bytes: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER).default(0),
  mac_addresses: z.array(z.string().max(32)).max(64).default([]),
  disks: z.array(diskSchema).max(128).default([]),
  uefi: z.boolean().default(false),
  installer_version: word,
});
/** Body of `POST /api/v1/phone-home`. */
export const phoneHomeSchema = z.strictObject({
  node_id: z.string().max(63).default("").describe("Name the machine was told to take; empty: by its token or serial"),
  hostname: z.string().max(63).default(""),
  facts: factsSchema,
});
export type PhoneHome = z.infer<typeof phoneHomeSchema>;

export interface Enrolled {
  readonly status: "enrolled";
  readonly node: NodeFacts;
  readonly cluster: ClusterState | undefined;
  readonly refusal: Refusal | undefined;
  /** True when this machine held the name already. */
  readonly again: boolean;
}
export interface Pending {
  readonly status: "pending";
  readonly machine: MachineRow;
}

/** Decides who a machine is when it calls, and keeps what it says about itself. */
export class Enrolment {
  readonly #core: Core;

  constructor(core: Core) {
    this.#core = core;
  }

  /** `token` undefined: it brought none, which only lab mode lets pass. */
  async phoneHome(request: PhoneHome, token: string | undefined, address: string): Promise<Enrolled | Pending> {
    const machine = identityOf(request.facts);
    if (machine === "") {
      throw invalidField("facts.serial", "Cannot tell the machine: it has neither a serial nor a machine_id");
    }
    if (request.node_id !== "") checkName(request.node_id, "node_id");
    const outcome = await this.#core.writer.change(async (tx) => {
      const held = token === undefined ? undefined : await checkToken(tx, token, machine);
      if (held === undefined && !this.#core.options.allow_unauthenticated) {
        throw fault("unauthenticated", "token_missing", "Cannot let a machine in without a bootstrap token");
      }
      const name = await this.#nameFor(tx, request, machine, held?.row.node);
      if (name.refused !== undefined) {
        return {
          machine: await this.#keepPending(tx, request, machine, address, name.refused.message),
          fault: name.refused,
        };
      }
      if (held !== undefined) putToken(tx, held.sha256, { ...held.row, usedBy: machine });
      if (name.node === undefined) {
        return { machine: await this.#keepPending(tx, request, machine, address, name.reason) };
      }
      return { enrolled: await this.#enrol(tx, name.node, request, machine) };
    }, { serialize: "phone-home" });
    if (outcome.fault !== undefined) throw outcome.fault;
    if (outcome.machine !== undefined) return { status: "pending", machine: outcome.machine };
    const { node, cluster, again } = outcome.enrolled!;
    const refusal = await this.#core.planRefusal(cluster, node, request.facts);
    if (refusal === undefined) await this.#holdDisk(node.name, machine);
    return { status: "enrolled", node, cluster, refusal, again };
  }

  /** The node the machine is, or why it is none. */
  async #nameFor(
    tx: Tx,
    request: PhoneHome,
    machine: string,
    boundTo: string | undefined,
  ): Promise<{ node?: string; reason: string; refused?: ReturnType<typeof fault> }> {
    const wanted = request.node_id;
    if (boundTo !== undefined && boundTo !== "") {
      const node = await this.#core.node(boundTo, tx);
      const refuse = (why: string) => ({
        reason: why,
        refused: fault("permission_denied", "identity_mismatch", `Cannot enrol ${machine} as ${boundTo}: ${why}`),
      });
      if (wanted !== "" && wanted !== boundTo) return refuse(`it says it is ${wanted}`);
      if (node.serial !== "" && node.serial !== machine) return refuse("the name is bound to another serial");
      const holder = node.record?.value.machine;
      if (holder !== undefined && holder !== machine) return refuse("another machine holds the name");
      return { node: boundTo, reason: "" };
    }
    const row = await tx.row<MachineRow>(rowKeys.machine(machine));
    if (row?.approvedNode !== undefined) return { node: row.approvedNode, reason: "" };
    const known = await this.#bySerial(tx, machine);
    if (boundTo === undefined && known !== undefined) return { node: known, reason: "" };
    const reason = known === undefined
      ? "no node has its serial"
      : `its serial is that of ${known}, and it did not bring that node's token`;
    return { reason };
  }

  async #bySerial(tx: Tx, machine: string): Promise<string | undefined> {
    const cluster = await this.#core.states.cluster(tx);
    const declared = Object.entries(cluster?.nodes ?? {}).find(([, node]) => node.serial === machine)?.[0];
    if (declared !== undefined) return declared;
    return (await this.#core.platform.list(nodeKind)).find(({ value }) => value.serial === machine)?.name;
  }

  async #enrol(tx: Tx, name: string, request: PhoneHome, machine: string) {
    const before = await this.#core.node(name, tx);
    const value = before.record?.value ?? emptyNode;
    if (value.machine !== undefined && value.machine !== machine) {
      throw fault(
        "permission_denied",
        "identity_mismatch",
        `Cannot enrol ${machine} as ${name}: another machine holds it`,
      );
    }
    const next: NodeValue = {
      ...value,
      machine,
      enrolledMs: value.enrolledMs ?? tx.nowMs,
      phoneHomeMs: tx.nowMs,
      facts: request.facts,
    };
    const record = before.record
      ? tx.update(nodeKind, before.record, { value: next })
      : await tx.create(nodeKind, { project: "", name, value: next });
    tx.deleteRow(rowKeys.machine(machine));
    return { node: { ...before, record }, cluster: before.cluster, again: value.machine === machine };
  }

  /** From here on no other node is installed on this disk. */
  async #holdDisk(name: string, machine: string): Promise<void> {
    await this.#core.writer.change(async (tx) => {
      const node = await this.#core.node(name, tx);
      const { record } = node;
      const plan = this.#core.planOf(node.cluster, node);
      if (record === undefined || record.value.machine !== machine || plan === undefined) return;
      const disk = record.value.facts?.disks.find(({ by_id }) => by_id.includes(plan.target_disk_by_id));
      if (disk === undefined) return;
      const held = { serial: disk.serial, wwn: disk.wwn };
      if (JSON.stringify(record.value.disk) === JSON.stringify(held)) return;
      tx.update(nodeKind, record, { value: { ...record.value, disk: held } });
    });
  }

  async #keepPending(
    tx: Tx,
    request: PhoneHome,
    machine: string,
    address: string,
    reason: string,
  ): Promise<MachineRow> {
    const key = rowKeys.machine(machine);
    const before = await tx.row<MachineRow>(key);
    const { pendingMax, pendingTtlMs } = this.#core.options;
    if (before === undefined && await this.#pendingCount() >= pendingMax) {
      throw fault(
        "resource_exhausted",
        "pending_full",
        `Cannot keep more than ${pendingMax} unknown machines: wanted some to be approved or rejected`,
        { retryAfterMs: 60_000 },
      );
    }
    const row: MachineRow = {
      id: machine,
      facts: request.facts,
      address,
      firstSeenMs: before?.firstSeenMs ?? tx.nowMs,
      lastSeenMs: tx.nowMs,
      attempts: (before?.attempts ?? 0) + 1,
      wantedNode: request.node_id,
      reason,
      ...(before?.approvedNode === undefined ? {} : { approvedNode: before.approvedNode }),
    };
    tx.putRow(key, row, pendingTtlMs);
    return row;
  }

  /** Exact, as there is one writer and it takes one machine at a time; not a condition of the caller's transaction. */
  async #pendingCount(): Promise<number> {
    return (await new Tx(this.#core.platform.kv, this.#core.platform).rows(rowKeys.machines)).length;
  }

  /** Keeps a step of an installation. The token proves which node it is; lab mode takes the node's word. */
  async marker(
    o: { readonly node: string; readonly name: string; readonly detail: string },
    token: string | undefined,
  ): Promise<void> {
    const marker: Omit<MarkerRow, "timeMs"> = { name: o.name, detail: o.detail };
    await this.#core.writer.change(async (tx) => {
      const name = await this.nodeOfToken(tx, token, o.node);
      const record = await tx.get(nodeKind, "", name);
      const markers = [...record.value.markers, { ...marker, timeMs: tx.nowMs }].slice(-markersMax);
      tx.update(nodeKind, record, { value: { ...record.value, markers } });
    }, { serialize: `marker/${o.node}` });
    this.#core.platform.log.info("marker", { node: o.node, marker: o.name, detail: o.detail });
  }

  /** The enrolled node whose machine used the token. */
  async nodeOfToken(tx: Tx, token: string | undefined, node: string): Promise<string> {
    const record = await tx.find(nodeKind, "", node);
    const machine = record?.value.machine;
    if (token === undefined) {
      if (!this.#core.options.allow_unauthenticated) {
        throw fault("unauthenticated", "token_missing", "Cannot let a machine in without a bootstrap token");
      }
      if (machine !== undefined) return node;
    } else {
      const { row } = await checkToken(tx, token, machine ?? "");
      if (machine !== undefined && row.usedBy === machine) return node;
    }
    throw fault(
      "permission_denied",
      "not_enrolled",
      `Cannot speak for ${node || "a node without name"}: not enrolled with this token`,
    );
  }
}

import { timestampMs } from "@bufbuild/protobuf/wkt";
import { checkName, fault, invalidField } from "@ultracloud/base";
import { idempotencyOf, pageFilter, pageSizeOf, Tx } from "@ultracloud/platform";
import {
  ApproveRequestSchema,
  NodeSchema,
  NodeService,
  type PreRegisterRequest,
  PreRegisterRequestSchema,
  PreRegisterResponseSchema,
} from "@ultracloud/proto/deployer/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Core } from "./core.ts";
import { bumpTrust } from "./identities.ts";
import { newToken, sha256Hex } from "./hashes.ts";
import { emptyNode, type MachineRow, nodeKind, type NodeValue, rowKeys } from "./kinds.ts";
import { type NodeInit, nodeView } from "./node_view.ts";
import { putToken, tokenRow, tokenTtlMsMax, tokenTtlOf } from "./tokens.ts";
import { toPending } from "./wire.ts";

const serialCharsMax = 128;
const root = () => "";

/** Machines and nodes: announced, approved, looked at, forgotten. */
export function nodeService(core: Core): BoundService {
  const { platform, writer } = core;

  async function view(name: string): Promise<NodeInit> {
    const node = await core.node(name);
    if (node.record === undefined && node.spec === undefined) {
      throw fault("not_found", "node_not_found", `Cannot find node ${JSON.stringify(name.slice(0, 80))}`);
    }
    return await nodeView(core, node.cluster, node);
  }

  const checkGroup = async (request: { readonly class: string; readonly pool: string }, tx: Tx) => {
    const cluster = await core.states.cluster(tx);
    const known = { class: cluster?.classes ?? {}, pool: cluster?.pools ?? {} };
    for (const field of ["class", "pool"] as const) {
      const name = request[field];
      if (name === "" || Object.hasOwn(known[field], checkName(name, field))) continue;
      throw invalidField(field, `Cannot put a node into the ${field} ${name}: the cluster state does not have it`);
    }
  };

  async function preRegister(request: PreRegisterRequest, tx: Tx): Promise<{ created: boolean; token: string }> {
    const { node: name, serial } = request;
    await checkGroup(request, tx);
    const before = await core.node(name, tx);
    const declared = before.spec?.serial;
    if (serial !== "" && declared !== undefined && declared !== serial) {
      throw invalidField("serial", `Cannot bind ${name} to ${serial}: the cluster state binds it to ${declared}`);
    }
    const value = before.record?.value;
    const replay = request.tokenSha256 !== "" && value?.tokenSha256 === request.tokenSha256 &&
      value.serial === serial && value.class === request.class && value.pool === request.pool;
    if (replay) return { created: false, token: "" };
    if (value?.machine !== undefined) {
      throw fault(
        "already_exists",
        "node_enrolled",
        `Cannot announce ${name} as a machine holds the name: wanted the node to be removed, or its token rotated`,
      );
    }
    const token = request.tokenSha256 === "" ? newToken() : "";
    const sha256 = request.tokenSha256 === "" ? sha256Hex(token) : request.tokenSha256;
    if (await tokenRow(tx, sha256)) {
      throw fault("already_exists", "token_exists", `Cannot announce ${name} with a token that another node has`);
    }
    if (value?.tokenSha256 !== undefined) tx.deleteRow(rowKeys.token(value.tokenSha256));
    const expiresMs = expiryOf(request, tx.nowMs);
    putToken(tx, sha256, { node: name, expiresMs });
    const next: NodeValue = {
      ...value ?? emptyNode,
      serial,
      class: request.class,
      pool: request.pool,
      tokenSha256: sha256,
    };
    if (before.record) tx.update(nodeKind, before.record, { value: next });
    else await tx.create(nodeKind, { project: "", name, value: next });
    return { created: true, token };
  }

  return bind(NodeService, {
    async preRegister(request, context) {
      checkName(request.node, "node");
      if (request.serial.length > serialCharsMax) {
        throw invalidField(
          "serial",
          `Cannot keep a serial of ${request.serial.length} characters: wanted ${serialCharsMax}`,
        );
      }
      if (request.tokenSha256 !== "" && !/^[0-9a-f]{64}$/.test(request.tokenSha256)) {
        throw invalidField("tokenSha256", "Cannot read tokenSha256: wanted 64 hexadecimal digits");
      }
      const { created, token } = await writer.change((tx) => preRegister(request, tx), {
        serialize: `node/${request.node}`,
        idempotency: secretAnswer(idempotencyOf(context, PreRegisterRequestSchema, request, PreRegisterResponseSchema)),
      });
      if (created) platform.log.info("machine announced", { node: request.node, serial: request.serial });
      return { node: await view(request.node), token, created };
    },
    async listPending() {
      const rows = await new Tx(platform.kv, platform).rows<MachineRow>(rowKeys.machines);
      const pending = rows.map(({ value }) => value).filter(({ approvedNode }) => approvedNode === undefined);
      return { machines: pending.map(toPending), limit: core.options.pendingMax };
    },
    async approve(request, context) {
      const name = checkName(request.node, "node");
      await writer.change(async (tx) => {
        await checkGroup(request, tx);
        const row = await machineRow(tx, request.machine);
        const node = await core.node(name, tx);
        const holder = node.record?.value.machine;
        if (holder !== undefined) {
          throw fault(
            "already_exists",
            "node_enrolled",
            `Cannot approve ${row.id} as ${name}: ${holder} holds the name`,
          );
        }
        if (node.serial !== "" && node.serial !== row.id) {
          throw fault(
            "failed_precondition",
            "identity_mismatch",
            `Cannot approve ${row.id} as ${name}: the name is bound to ${node.serial}`,
          );
        }
        const value: NodeValue = {
          ...node.record?.value ?? emptyNode,
          serial: row.id,
          class: request.class,
          pool: request.pool,
          facts: row.facts,
        };
        if (node.record) tx.update(nodeKind, node.record, { value });
        else await tx.create(nodeKind, { project: "", name, value });
        const approved: MachineRow = { ...row, approvedNode: name };
        tx.putRow(rowKeys.machine(row.id), approved, core.options.pendingTtlMs);
        return {};
      }, { serialize: "phone-home", idempotency: idempotencyOf(context, ApproveRequestSchema, request, NodeSchema) });
      platform.log.info("machine approved", { machine: request.machine, node: name });
      return await view(name);
    },
    async reject(request) {
      await writer.change(async (tx) => {
        const row = await machineRow(tx, request.machine);
        tx.deleteRow(rowKeys.machine(row.id));
      }, { serialize: "phone-home" });
      return {};
    },
    async rotateToken(request) {
      const ttlMs = tokenTtlOf(request.ttlMs, "ttlMs");
      if (request.node !== "") checkName(request.node, "node");
      const token = newToken();
      const expiresMs = await writer.change(async (tx) => {
        const expires = tx.nowMs + ttlMs;
        if (request.node !== "") {
          const record = await tx.get(nodeKind, "", request.node);
          const old = record.value.tokenSha256;
          if (old !== undefined) tx.deleteRow(rowKeys.token(old));
          tx.update(nodeKind, record, { value: { ...record.value, tokenSha256: sha256Hex(token) } });
        }
        putToken(tx, sha256Hex(token), { node: request.node, expiresMs: expires });
        return expires;
      }, { serialize: `node/${request.node}` });
      return { token, expireTime: { seconds: BigInt(Math.floor(expiresMs / 1000)), nanos: (expiresMs % 1000) * 1e6 } };
    },
    getNode: (request) => view(checkName(request.node, "node")),
    async listNodes(request) {
      const cluster = await core.states.cluster();
      const records = new Map((await platform.list(nodeKind)).map((record) => [record.name, record]));
      const names = [...new Set([...Object.keys(cluster?.nodes ?? {}), ...records.keys()])].sort();
      const size = pageSizeOf(request.page);
      const filter = pageFilter(request.page);
      const after = request.page?.pageToken ?? "";
      const nodes: NodeInit[] = [];
      for (const name of names) {
        if (name <= after) continue;
        const node = await nodeView(core, cluster, core.join(cluster, records.get(name), name));
        if (!filter.matches({}, () => node)) continue;
        if (nodes.length === size) return { nodes, page: { nextPageToken: nodes.at(-1)!.meta!.name! } };
        nodes.push(node);
      }
      return { nodes, page: { nextPageToken: "" } };
    },
    async removeNode(request) {
      const name = checkName(request.node, "node");
      await writer.change(async (tx) => {
        const record = await tx.get(nodeKind, "", name);
        const { tokenSha256 } = record.value;
        if (tokenSha256 !== undefined) tx.deleteRow(rowKeys.token(tokenSha256));
        for (const key of [rowKeys.observed(name), rowKeys.offer(name)]) tx.deleteRow(key);
        // Whoever holds its keys is nobody from now on.
        if (record.value.identities !== undefined) await bumpTrust(tx);
        tx.remove(nodeKind, record, { etag: request.etag });
      }, { serialize: `node/${name}` });
      platform.log.info("node removed", { node: name });
      return {};
    },
  }, {
    preRegister: { resource: "machine", action: "register", scope: root },
    listPending: { resource: "machine", action: "list", scope: root },
    approve: { resource: "machine", action: "approve", scope: root },
    reject: { resource: "machine", action: "reject", scope: root },
    rotateToken: { resource: "machine", action: "rotate", scope: root },
    getNode: { resource: "node", action: "get", scope: root },
    listNodes: { resource: "node", action: "list", scope: root },
    removeNode: { resource: "machine", action: "remove", scope: root },
  });
}

async function machineRow(tx: Tx, id: string): Promise<MachineRow> {
  const row = id === "" || id.length > 256 ? undefined : await tx.row<MachineRow>(rowKeys.machine(id));
  if (row !== undefined) return row;
  throw fault("not_found", "machine_not_found", `Cannot find a pending machine ${JSON.stringify(id.slice(0, 80))}`);
}

/** When the token ends: what a replayed request said, else the time to live from now. */
function expiryOf(request: PreRegisterRequest, nowMs: number): number {
  const ttlMs = tokenTtlOf(request.tokenTtlMs, "tokenTtlMs");
  if (request.tokenExpireTime === undefined) return nowMs + ttlMs;
  const expiresMs = timestampMs(request.tokenExpireTime);
  if (Number.isFinite(expiresMs) && expiresMs <= nowMs + tokenTtlMsMax) return expiresMs;
  throw invalidField("tokenExpireTime", "Cannot make a token that lives longer than 30 days");
}

/** A repeated call finds what was done, not the token: that is told once. */
function secretAnswer(idempotency: ReturnType<typeof idempotencyOf>) {
  if (idempotency === undefined) return undefined;
  const kept = new TextEncoder();
  return {
    key: idempotency.key,
    hash: idempotency.hash,
    encode: ({ created }: { created: boolean; token: string }) => kept.encode(JSON.stringify({ created })),
    decode: (bytes: Uint8Array) =>
      ({ token: "", ...JSON.parse(new TextDecoder().decode(bytes)) }) as {
        created: boolean;
        token: string;
      },
  };
}

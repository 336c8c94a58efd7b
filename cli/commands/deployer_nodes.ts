import { create, fromJsonString, toJsonString } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { toHex, utf8 } from "@ultracloud/base";
import {
  EnrolmentState,
  type Node,
  NodeSchema,
  NodeService,
  type PendingMachine,
  PendingMachineSchema,
  PreRegisterRequestSchema,
  SystemState,
} from "@ultracloud/proto/deployer/v1";
import { type Column, enumName, humanAge } from "../frame/columns.ts";
import { command, parseDuration, text } from "../frame/command.ts";
import { completeMachines, completeNodes, writing } from "./_deployer.ts";
import { pages } from "./_shared.ts";

const systemName = (path: string) => path.replace(/^\/nix\/store\/(\w{8})\w{24}-/, "$1-");
const columns: readonly Column<Node>[] = [
  { name: "name", get: (n) => n.meta?.name ?? "" },
  { name: "class", get: (n) => n.class },
  { name: "enrolment", get: (n) => enumName(EnrolmentState, n.enrolment) },
  {
    name: "system",
    get: (n) => n.observed ? enumName(SystemState, n.observed.state).replaceAll("_", "-") : "never reported",
  },
  { name: "runs", get: (n) => systemName(n.observed?.currentSystem ?? "") },
  { name: "wanted", get: (n) => systemName(n.desiredSystem?.targetSystem ?? "") },
  { name: "why", get: (n) => n.observed?.reason || n.holdReason || n.planRefusal?.message || "" },
  { name: "serial", get: (n) => n.serial, wide: true },
  { name: "pool", get: (n) => n.pool, wide: true },
  { name: "rollout", get: (n) => n.rollout, wide: true },
];
const pendingColumns: readonly Column<PendingMachine>[] = [
  { name: "machine", get: (m) => m.id },
  { name: "address", get: (m) => m.address },
  { name: "product", get: (m) => `${m.facts?.vendor ?? ""} ${m.facts?.product ?? ""}`.trim() },
  { name: "disks", get: (m) => String(m.facts?.disks.length ?? 0) },
  { name: "first_seen", get: (m) => humanAge(Number(m.firstSeenTime?.seconds ?? 0n) * 1000, Date.now()) },
  { name: "attempts", get: (m) => String(m.attempts) },
  { name: "why", get: (m) => m.reason },
];
const nodeArg = { brief: "Node", placeholder: "node" } as const;
const machineArg = { brief: "Machine, as `pending` names it", placeholder: "machine" } as const;
const groupFlags = {
  class: { kind: "parsed", parse: text, default: "", brief: "Class of a node that the cluster state does not name" },
  pool: { kind: "parsed", parse: text, default: "", brief: "Pool of such a node" },
} as const;
interface GroupFlags {
  readonly class: string;
  readonly pool: string;
}
const ttlFlag = {
  kind: "parsed",
  parse: parseDuration,
  default: "24h",
  brief: "Life of the token, at most 30d",
} as const;

/** A token that is made here: the deployer gets its hash, and the request can be kept as a backup. */
async function newToken(): Promise<{ token: string; sha256: string }> {
  const random = crypto.getRandomValues(new Uint8Array(32)).toBase64({ alphabet: "base64url", omitPadding: true });
  const token = `ucb_${random}`;
  return { token, sha256: toHex(new Uint8Array(await crypto.subtle.digest("SHA-256", utf8.encode(token)))) };
}

/** Verbs on machines and nodes; of `uc deployer node` and, beside those on workers, of `uc node`. */
export const machineRoutes = {
  machines: command({
    brief: "List nodes with what they run and should run",
    async run({ session, list }) {
      const client = session.client(NodeService, "deployer");
      await list(NodeSchema, await pages((page) => client.listNodes({ page }), (answer) => answer.nodes), columns);
    },
  }),
  inspect: command<Record<never, never>, [string]>({
    brief: "Show everything known about a node: facts, plan, systems, markers",
    args: [nodeArg],
    complete: completeNodes,
    async run({ session, one }, _flags, node) {
      await one(NodeSchema, await session.client(NodeService, "deployer").getNode({ node }), columns);
    },
  }),
  pending: command({
    brief: "List machines that phoned home and are nobody we know",
    async run({ session, list }) {
      const { machines } = await session.client(NodeService, "deployer").listPending({});
      await list(PendingMachineSchema, machines, pendingColumns);
    },
  }),
  preRegister: command<
    GroupFlags & { serial: string; ttl: number; requestFile?: string; tokenFile?: string },
    [string]
  >({
    brief: "Announce a machine; prints its bootstrap token, which is told once",
    details: "With --request-file the request is kept: it holds the hash of the token and no secret. " +
      "`uc node replay FILE` sends it again and restores the node and its token after a loss.",
    args: [nodeArg],
    flags: {
      ...groupFlags,
      serial: { kind: "parsed", parse: text, default: "", brief: "Serial the name is bound to" },
      ttl: ttlFlag,
      requestFile: { kind: "parsed", parse: text, optional: true, brief: "Keep the request here, as a backup" },
      tokenFile: { kind: "parsed", parse: text, optional: true, brief: "Write the token here instead of printing it" },
    },
    async run(run, flags, node) {
      const { token, sha256 } = await newToken();
      const request = create(PreRegisterRequestSchema, {
        node,
        serial: flags.serial,
        class: flags.class,
        pool: flags.pool,
        tokenSha256: sha256,
        tokenExpireTime: timestampFromMs(Date.now() + flags.ttl),
      });
      const client = await writing(run, NodeService);
      const answer = await client.preRegister(request);
      if (flags.requestFile !== undefined) {
        await Deno.writeTextFile(flags.requestFile, `${toJsonString(PreRegisterRequestSchema, request)}\n`, {
          mode: 0o600,
        });
      }
      await run.one(NodeSchema, answer.node!, columns);
      if (flags.tokenFile !== undefined) await Deno.writeTextFile(flags.tokenFile, `${token}\n`, { mode: 0o600 });
      else run.io.err(`Bootstrap token, told once: ${token}\n`);
    },
  }),
  replay: command<Record<never, never>, [string]>({
    brief: "Send a kept pre-register request again; what is there already stays",
    args: [{ brief: "File of --request-file", placeholder: "file" }],
    async run(run, _flags, file) {
      const request = fromJsonString(PreRegisterRequestSchema, await Deno.readTextFile(file));
      const { node, created } = await (await writing(run, NodeService)).preRegister(request);
      await run.one(NodeSchema, node!, columns);
      run.io.err(created ? "The node and its token are back\n" : "It was there already\n");
    },
  }),
  approve: command<GroupFlags, [string, string]>({
    brief: "Let a pending machine become a node",
    args: [machineArg, nodeArg],
    flags: groupFlags,
    complete: completeMachines,
    async run(run, flags, machine, node) {
      const client = await writing(run, NodeService);
      await run.one(NodeSchema, await client.approve({ machine, node, class: flags.class, pool: flags.pool }), columns);
    },
  }),
  reject: command<Record<never, never>, [string]>({
    brief: "Take a machine off the list of those that wait",
    args: [machineArg],
    complete: completeMachines,
    async run(run, _flags, machine) {
      await (await writing(run, NodeService)).reject({ machine });
      run.io.err(`Rejected ${machine}\n`);
    },
  }),
  rotateToken: command<{ ttl: number; tokenFile?: string }, [string | undefined]>({
    brief: "Replace a node's bootstrap token; without a node, one for machines nobody knows yet",
    args: [{ ...nodeArg, optional: true }],
    flags: {
      ttl: ttlFlag,
      tokenFile: { kind: "parsed", parse: text, optional: true, brief: "Write the token here instead of printing it" },
    },
    complete: completeNodes,
    async run(run, flags, node = "") {
      const { token } = await (await writing(run, NodeService)).rotateToken({ node, ttlMs: BigInt(flags.ttl) });
      if (flags.tokenFile === undefined) run.io.out(`${token}\n`);
      else await Deno.writeTextFile(flags.tokenFile, `${token}\n`, { mode: 0o600 });
    },
  }),
  forget: command<Record<never, never>, [string]>({
    brief: "Forget a node's machine, its token and the disk it holds",
    args: [nodeArg],
    complete: completeNodes,
    async run(run, _flags, node) {
      run.confirm(`Forget the machine of ${node}?`);
      await (await writing(run, NodeService)).removeNode({ node });
      run.io.err(`Forgot ${node}\n`);
    },
  }),
};

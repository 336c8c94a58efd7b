import { checkName, Fault, fault, invalidField } from "@ultracloud/base";
import {
  allocate,
  idempotencyOf,
  type Platform,
  projectScope,
  resourceScope,
  type StoredRecord,
  type Tx,
} from "@ultracloud/platform";
import {
  BindPortRequestSchema,
  CreatePortRequestSchema,
  DeletePortRequestSchema,
  DeletePortResponseSchema,
  PortSchema,
  PortService,
  PortState,
  SetPortSecurityGroupsRequestSchema,
  UnbindPortRequestSchema,
} from "@ultracloud/proto/prismnet/v1";
import { bind, type BoundService, type CallContext } from "@ultracloud/rpc";
import { checkPeer } from "./domain/acl.ts";
import { addressOf } from "./domain/ipv6.ts";
import { checkHostIp, formatIp, parseIp, parseNetwork } from "./domain/ipv4.ts";
import { checkMac, randomMac } from "./domain/mac.ts";
import type { Owner, Port, Subnet } from "./domain/types.ts";
import { type Engine, requireFeature } from "./engine.ts";
import { addressPool, floatingIpKind, macKey, portKind, subnetKind } from "./kinds.ts";
import type { PortTroubles } from "./hosts.ts";
import { bindBeside, bindPort, groupsOf, noteGroupUse, resolveGroups, unbindPort } from "./ports_core.ts";
import { claimAwake, rest, restingText } from "./resting.ts";
import { type PortInit, toPort, views } from "./wire.ts";

/** Random addresses tried before giving up; the VPC would have to hold millions of ports. */
const macTriesMax = 16;
const allowedAddressesMax = 8;
/** Below the time most callers give a call. */
const waitMsMax = 30_000;
/** How often a waiting call looks. */
const lookMs = 100;
/** Looks until the record is read again. */
const looksPerRead = 10;
const hostPattern = /^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/;

function ownerOf(ref: Owner | undefined): Owner | undefined {
  if (!ref || (ref.service === "" && ref.id === "")) return undefined;
  const { service, kind, project, name, id } = ref;
  for (const [field, text] of Object.entries({ service, kind, project, name, id })) {
    if (text.length > 140) throw invalidField(`owner.${field}`, `Cannot keep ${text.length} characters: wanted 140`);
  }
  if (!/^[a-z][a-z0-9-]{0,30}$/.test(service)) {
    throw invalidField("owner.service", "Cannot use the owner's service: wanted the name of a component");
  }
  return { service, kind, project, name, id };
}

/** The owning service itself may take its port away; others must free it first. */
function checkOwner(record: StoredRecord<Port>, context: CallContext, doing: string): void {
  const owner = record.value.owner;
  if (!owner) return;
  const { kind, id } = context.principal;
  if (kind === "workload" && new RegExp(`^spiffe://[^/]+/svc/${owner.service}(/|$)`).test(id)) return;
  throw fault(
    "failed_precondition",
    "port_in_use",
    `Cannot ${doing} port ${record.name} as ${owner.service} ${owner.kind} ${owner.name || owner.id} uses it`,
  );
}

async function takeAddress(
  tx: Tx,
  subnet: StoredRecord<Subnet>,
  wanted: string,
  portId: string,
): Promise<string> {
  const pool = addressPool(subnet.id, subnet.value.cidr);
  if (wanted !== "") {
    const address = checkHostIp(parseNetwork(subnet.value.cidr)!, wanted, "ipAddress");
    if (await claimAwake(tx, pool, address, portId)) return formatIp(address);
    throw fault("already_exists", "ip_taken", `Cannot use ${wanted} as it is taken in subnet ${subnet.name}`, {
      field: "ipAddress",
    });
  }
  try {
    return formatIp(await allocate(tx, pool, portId));
  } catch (cause) {
    if (!(cause instanceof Fault) || cause.code !== "pool_exhausted") throw cause;
    throw fault(
      "resource_exhausted",
      "subnet_exhausted",
      `Cannot take an address as all of subnet ${subnet.name} (${subnet.value.cidr}) are taken` +
        await restingText(tx, pool),
      { cause },
    );
  }
}

async function takeMac(tx: Tx, platform: Platform, vpcId: string, wanted: string, portId: string): Promise<string> {
  const fixed = wanted === "" ? undefined : checkMac(wanted, "macAddress");
  for (let i = 0; i < macTriesMax; i++) {
    const mac = fixed ?? randomMac(platform.rng);
    const key = macKey(vpcId, mac);
    if (await tx.row(key) === undefined) {
      tx.putRow(key, portId);
      return mac;
    }
    if (fixed) break;
  }
  throw fault(
    "already_exists",
    "mac_taken",
    `Cannot use ${fixed ?? "a random MAC address"} as it is taken in the VPC`,
    {
      field: "macAddress",
    },
  );
}

/** Addresses beside its own, each a CIDR or an address. */
function allowedOf(wanted: readonly string[]): string[] {
  if (wanted.length > allowedAddressesMax) {
    throw invalidField(
      "allowedAddresses",
      `Cannot allow ${wanted.length} addresses: wanted at most ${allowedAddressesMax}`,
    );
  }
  return wanted.map((text, i) => {
    const peer = checkPeer(
      text.includes("/") ? text : `${text}/${text.includes(":") ? 128 : 32}`,
      `allowedAddresses.${i}`,
    );
    return peer.replace(/\/(32|128)$/, (suffix, bits) => (bits === "32") === !peer.includes(":") ? "" : suffix);
  });
}

export function portService(
  platform: Platform,
  engine: Engine,
  { graceMs, troubles }: { readonly graceMs: number; readonly troubles: PortTroubles },
): BoundService {
  const scope = (project: string, port: string) => resourceScope("prismnet", "port", project, port);
  /** The port with what the data plane says of it. */
  const seen = (record: StoredRecord<Port>): PortInit => {
    const port = toPort(record);
    if (record.value.host === "") return { ...port, state: PortState.UNBOUND, stateReason: "no host has it" };
    const { active, reason } = engine.view(record.id, record.value);
    if (active) return { ...port, state: PortState.ACTIVE, stateReason: "" };
    const trouble = troubles.of(record.value.host, record.id);
    return {
      ...port,
      state: PortState.PENDING,
      stateReason: trouble === "" ? reason : `${reason} It says: ${trouble}`,
    };
  };
  return bind(PortService, {
    createPort(request, context) {
      const name = checkName(request.name, "name");
      const owner = ownerOf(request.owner);
      const allowedAddresses = allowedOf(request.allowedAddresses);
      if (allowedAddresses.length > 0) requireFeature(engine, "anti_spoofing", "allow a port more addresses");
      return platform.transact<PortInit>(async (tx) => {
        // Whether the name is free is asked meanwhile: the transaction remembers what it has read.
        const [subnet, groups] = await Promise.all([
          tx.get(subnetKind, request.project, request.subnet),
          resolveGroups(tx, request.project, request.securityGroups),
          tx.find(portKind, request.project, name),
        ]);
        const id = tx.newId("port");
        const vpcId = subnet.value.vpcId;
        const [ipAddress, macAddress] = await Promise.all([
          takeAddress(tx, subnet, request.ipAddress, id),
          takeMac(tx, platform, vpcId, request.macAddress, id),
        ]);
        const { cidrV6 } = subnet.value;
        const value: Port = {
          subnetId: subnet.id,
          vpcId,
          ipAddress,
          ...(cidrV6 === undefined ? {} : { ipv6Address: addressOf(cidrV6, ipAddress) }),
          ...(allowedAddresses.length > 0 ? { allowedAddresses } : {}),
          macAddress,
          securityGroupIds: groups.map((group) => group.id),
          host: "",
          ...(owner ? { owner } : {}),
        };
        noteGroupUse(tx, id, [], value.securityGroupIds);
        tx.touch(subnet.id);
        return toPort(
          await tx.create(portKind, { id, project: request.project, name, labels: request.labels, value }),
        );
      }, {
        idempotency: idempotencyOf(context, CreatePortRequestSchema, request, PortSchema),
        serialize: `ports/${request.project}/${request.subnet}`,
      });
    },
    getPort: async (request) => seen(await platform.get(portKind, request.project, request.port)),
    async waitPort(request, context) {
      if (request.timeoutMs < 0 || request.timeoutMs > waitMsMax) {
        throw invalidField("timeoutMs", `Cannot wait ${request.timeoutMs} ms: wanted 0 to ${waitMsMax}`);
      }
      const deadline = platform.clock.monotonicMs() + request.timeoutMs;
      for (;;) {
        const record = await platform.get(portKind, request.project, request.port);
        // What its host has taken is known here: the store is asked only whether somebody else wants something else.
        for (let look = 0; look < looksPerRead; look++) {
          const port = seen(record);
          if (port.state !== PortState.PENDING || platform.clock.monotonicMs() >= deadline) return port;
          await platform.clock.sleep(lookMs, context.signal);
        }
      }
    },
    async listPorts(request) {
      const subnet = request.subnet === ""
        ? undefined
        : await platform.get(subnetKind, request.project, request.subnet);
      const page = await platform.page(portKind, {
        project: request.project,
        page: request.page,
        where: (p) => subnet === undefined || p.value.subnetId === subnet.id,
        view: views.port,
      });
      return { ports: page.items.map(seen), page: { nextPageToken: page.nextPageToken } };
    },
    setPortSecurityGroups(request, context) {
      return platform.transact<PortInit>(async (tx) => {
        const record = await tx.get(portKind, request.project, request.port);
        const groups = await resolveGroups(tx, request.project, request.securityGroups);
        const securityGroupIds = groups.map((group) => group.id);
        noteGroupUse(tx, record.id, record.value.securityGroupIds, securityGroupIds);
        const next = tx.update(portKind, record, { value: { ...record.value, securityGroupIds } });
        return toPort(next.value.host === "" ? next : await bindPort(tx, engine, next, next.value.host, groups));
      }, {
        idempotency: idempotencyOf(context, SetPortSecurityGroupsRequestSchema, request, PortSchema),
        serialize: engine.turnOf(request.port),
      });
    },
    bindPort(request, context) {
      if (!hostPattern.test(request.host)) {
        throw invalidField("host", `Cannot use ${JSON.stringify(request.host.slice(0, 80))} as a host name`);
      }
      return platform.transact<PortInit>(async (tx) => {
        const record = await tx.get(portKind, request.project, request.port);
        checkOwner(record, context, "bind");
        if (request.beside && record.value.host !== "") return toPort(bindBeside(tx, engine, record, request.host));
        return toPort(await bindPort(tx, engine, record, request.host, groupsOf(tx, record.value)));
      }, {
        idempotency: idempotencyOf(context, BindPortRequestSchema, request, PortSchema),
        serialize: engine.turnOf(request.port),
      });
    },
    unbindPort(request, context) {
      return platform.transact<PortInit>(async (tx) => {
        const record = await tx.get(portKind, request.project, request.port);
        if (record.value.host === "") return toPort(record);
        checkOwner(record, context, "unbind");
        return toPort(await unbindPort(tx, engine, record, request.host));
      }, {
        idempotency: idempotencyOf(context, UnbindPortRequestSchema, request, PortSchema),
        serialize: engine.turnOf(request.port),
      });
    },
    deletePort(request, context) {
      return platform.transact(async (tx) => {
        const record = await tx.get(portKind, request.project, request.port);
        checkOwner(record, context, "delete");
        const port = record.value;
        const subnet = await tx.getById(subnetKind, port.subnetId);
        if (port.host !== "") {
          throw fault(
            "failed_precondition",
            "port_bound",
            `Cannot delete port ${record.name} as it is bound to ${port.host}: wanted it unbound first`,
          );
        }
        await tx.guard(record.id);
        const ip = (await platform.list(floatingIpKind, request.project)).find((f) => f.value.portId === record.id);
        // The owner is going, and its ports with it: an address that names one leads nowhere and is free again.
        if (ip && port.owner) tx.update(floatingIpKind, ip, { value: { ...ip.value, portId: "" } });
        else if (ip) {
          throw fault(
            "failed_precondition",
            "port_has_floating_ip",
            `Cannot delete port ${record.name} as floating IP ${ip.name} is attached: wanted it detached first`,
          );
        }
        await rest(tx, addressPool(subnet.id, subnet.value.cidr), parseIp(port.ipAddress)!, record.id, graceMs);
        tx.deleteRow(macKey(port.vpcId, port.macAddress));
        noteGroupUse(tx, record.id, port.securityGroupIds, []);
        tx.remove(portKind, record, { etag: request.etag });
        return {};
      }, { idempotency: idempotencyOf(context, DeletePortRequestSchema, request, DeletePortResponseSchema) });
    },
  }, {
    createPort: { resource: "port", action: "create", scope: (r) => projectScope(r.project) },
    getPort: { resource: "port", action: "get", scope: (r) => scope(r.project, r.port) },
    listPorts: { resource: "port", action: "list", scope: (r) => projectScope(r.project) },
    setPortSecurityGroups: { resource: "port", action: "update", scope: (r) => scope(r.project, r.port) },
    bindPort: { resource: "port", action: "bind", scope: (r) => scope(r.project, r.port) },
    unbindPort: { resource: "port", action: "bind", scope: (r) => scope(r.project, r.port) },
    waitPort: { resource: "port", action: "get", scope: (r) => scope(r.project, r.port) },
    deletePort: { resource: "port", action: "delete", scope: (r) => scope(r.project, r.port) },
  });
}

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
  AttachFloatingIpRequestSchema,
  CreateFloatingIpRequestSchema,
  DeleteFloatingIpRequestSchema,
  DeleteFloatingIpResponseSchema,
  FloatingIpSchema,
  FloatingIpService,
} from "@ultracloud/proto/prismnet/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { formatIp, parseIp } from "./domain/ipv4.ts";
import type { AddressPool } from "./domain/types.ts";
import { type Engine, requireFeature } from "./engine.ts";
import { floatingIpKind, gatewayKind, poolKind, portKind } from "./kinds.ts";
import { outsidePool } from "./pools.ts";
import { claimAwake, rest, restingText } from "./resting.ts";
import { type FloatingIpInit, toFloatingIp, views } from "./wire.ts";

/** An address of the pool for `holder`: the one wanted, or the next free one. */
export async function takeOutside(
  tx: Tx,
  pool: StoredRecord<AddressPool>,
  wanted: string,
  holder: string,
): Promise<string> {
  const numbers = outsidePool(pool);
  if (wanted !== "") {
    const address = parseIp(wanted);
    if (address === undefined || address < numbers.first || address > numbers.last) {
      throw invalidField(
        "ipAddress",
        `Cannot use ${
          JSON.stringify(wanted.slice(0, 40))
        }: wanted ${pool.value.firstIp} to ${pool.value.lastIp} of pool ${pool.name}`,
        "invalid_ip",
      );
    }
    if (await claimAwake(tx, numbers, address, holder)) return formatIp(address);
    throw fault("already_exists", "ip_taken", `Cannot use ${wanted} as it is taken in pool ${pool.name}`, {
      field: "ipAddress",
    });
  }
  try {
    return formatIp(await allocate(tx, numbers, holder));
  } catch (cause) {
    if (!(cause instanceof Fault) || cause.code !== "pool_exhausted") throw cause;
    throw fault(
      "resource_exhausted",
      "address_pool_exhausted",
      `Cannot take an address as all of address pool ${pool.name} are taken` + await restingText(tx, numbers),
      { cause },
    );
  }
}

export function floatingIpService(platform: Platform, engine: Engine, graceMs: number): BoundService {
  const scope = (project: string, ip: string) => resourceScope("prismnet", "floating_ip", project, ip, "floatingIp");

  /** Id of the port, which must be reachable through a gateway into the pool and have no other floating IP. */
  async function target(tx: Tx, project: string, ip: StoredRecord<{ poolId: string }>, name: string): Promise<string> {
    const port = await tx.get(portKind, project, name);
    const gateways = await tx.list(gatewayKind, project);
    const gateway = gateways.find((g) => g.value.vpcId === port.value.vpcId && g.value.poolId === ip.value.poolId);
    if (!gateway) {
      throw fault(
        "failed_precondition",
        "no_nat_gateway",
        `Cannot attach floating IP ${ip.name} to port ${port.name} as its VPC has no NAT gateway in the same address pool`,
      );
    }
    tx.touch(gateway.id);
    const other = (await tx.list(floatingIpKind, project)).find((f) => f.id !== ip.id && f.value.portId === port.id);
    if (other) {
      throw fault(
        "failed_precondition",
        "port_has_floating_ip",
        `Cannot attach floating IP ${ip.name} to port ${port.name} as ${other.name} is attached: wanted at most one`,
      );
    }
    tx.touch(port.id);
    return port.id;
  }

  return bind(FloatingIpService, {
    createFloatingIp(request, context) {
      const name = checkName(request.name, "name");
      requireFeature(engine, "floating_ip", "make a floating IP");
      return platform.transact<FloatingIpInit>(async (tx) => {
        const pool = await tx.get(poolKind, "", request.addressPool);
        tx.touch(pool.id);
        const id = tx.newId("fip");
        const ipAddress = await takeOutside(tx, pool, request.ipAddress, id);
        const value = { poolId: pool.id, ipAddress, portId: "" };
        const { project, labels } = request;
        return toFloatingIp(await tx.create(floatingIpKind, { id, project, name, labels, value }));
      }, {
        idempotency: idempotencyOf(context, CreateFloatingIpRequestSchema, request, FloatingIpSchema),
        serialize: "outside",
      });
    },
    getFloatingIp: async (request) =>
      toFloatingIp(await platform.get(floatingIpKind, request.project, request.floatingIp)),
    async listFloatingIps({ project, page: wanted }) {
      const page = await platform.page(floatingIpKind, { project, page: wanted, view: views.floating_ip });
      return { floatingIps: page.items.map(toFloatingIp), page: { nextPageToken: page.nextPageToken } };
    },
    attachFloatingIp(request, context) {
      return platform.transact<FloatingIpInit>(async (tx) => {
        const ip = await tx.get(floatingIpKind, request.project, request.floatingIp);
        const portId = request.port === "" ? "" : await target(tx, request.project, ip, request.port);
        return toFloatingIp(tx.update(floatingIpKind, ip, { value: { ...ip.value, portId } }));
      }, {
        idempotency: idempotencyOf(context, AttachFloatingIpRequestSchema, request, FloatingIpSchema),
        serialize: "outside",
      });
    },
    deleteFloatingIp(request, context) {
      return platform.transact(async (tx) => {
        const ip = await tx.get(floatingIpKind, request.project, request.floatingIp);
        if (ip.value.portId !== "") {
          throw fault(
            "failed_precondition",
            "floating_ip_in_use",
            `Cannot delete floating IP ${ip.name} as it is attached: wanted it detached first`,
          );
        }
        const pool = await tx.getById(poolKind, ip.value.poolId);
        await rest(tx, outsidePool(pool), parseIp(ip.value.ipAddress)!, ip.id, graceMs);
        tx.remove(floatingIpKind, ip, { etag: request.etag });
        return {};
      }, {
        idempotency: idempotencyOf(context, DeleteFloatingIpRequestSchema, request, DeleteFloatingIpResponseSchema),
      });
    },
  }, {
    createFloatingIp: { resource: "floating_ip", action: "create", scope: (r) => projectScope(r.project) },
    getFloatingIp: { resource: "floating_ip", action: "get", scope: (r) => scope(r.project, r.floatingIp) },
    listFloatingIps: { resource: "floating_ip", action: "list", scope: (r) => projectScope(r.project) },
    attachFloatingIp: { resource: "floating_ip", action: "update", scope: (r) => scope(r.project, r.floatingIp) },
    deleteFloatingIp: { resource: "floating_ip", action: "delete", scope: (r) => scope(r.project, r.floatingIp) },
  });
}

import { checkName, fault, invalidField } from "@ultracloud/base";
import {
  forget,
  idempotencyOf,
  type NumberPool,
  type Platform,
  poolHolders,
  type StoredRecord,
} from "@ultracloud/platform";
import {
  AddressPoolSchema,
  AddressPoolService,
  CreateAddressPoolRequestSchema,
  DeleteAddressPoolRequestSchema,
  DeleteAddressPoolResponseSchema,
} from "@ultracloud/proto/prismnet/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { checkHostIp, formatIp, parseIp, parseNetwork } from "./domain/ipv4.ts";
import type { AddressPool } from "./domain/types.ts";
import { poolKind } from "./kinds.ts";
import { addressesMax, nobody, wakeAll } from "./resting.ts";
import { type PoolInit, toPool, views } from "./wire.ts";

/** Addresses outside that gateways and floating IPs hold. */
export function outsidePool(pool: StoredRecord<AddressPool>): NumberPool {
  const { firstIp, lastIp } = pool.value;
  return { name: `outside/${pool.id}`, first: parseIp(firstIp)!, last: parseIp(lastIp)! };
}

/** Address pools are the cluster's: whoever may make one decides what tenants reach. */
const cluster = () => "";

export function poolService(platform: Platform): BoundService {
  return bind(AddressPoolService, {
    createAddressPool(request, context) {
      const name = checkName(request.name, "name");
      const uplink = checkName(request.uplink, "uplink");
      const network = parseNetwork(request.cidr);
      if (!network || network.prefix < 8 || network.prefix > 30) {
        throw invalidField(
          "cidr",
          `Cannot use ${
            JSON.stringify(request.cidr.slice(0, 40))
          } as an address pool: wanted an IPv4 CIDR of /8 to /30`,
          "invalid_cidr",
        );
      }
      const gateway = request.gatewayIp === "" ? undefined : checkHostIp(network, request.gatewayIp, "gatewayIp");
      let first = request.firstIp === "" ? network.first + 1 : checkHostIp(network, request.firstIp, "firstIp");
      let last = request.lastIp === "" ? network.last - 1 : checkHostIp(network, request.lastIp, "lastIp");
      if (request.firstIp === "" && first === gateway) first++;
      if (request.lastIp === "" && last === gateway) last--;
      if (first > last || (gateway !== undefined && gateway >= first && gateway <= last)) {
        throw invalidField(
          "firstIp",
          `Cannot hand out ${formatIp(first)} to ${
            formatIp(last)
          }: wanted a range that is not empty and leaves out the gateway`,
        );
      }
      const value = {
        cidr: network.cidr,
        gatewayIp: gateway === undefined ? "" : formatIp(gateway),
        firstIp: formatIp(first),
        lastIp: formatIp(last),
        uplink,
      };
      return platform.transact<PoolInit>(
        async (tx) => toPool(await tx.create(poolKind, { project: "", name, labels: request.labels, value })),
        { idempotency: idempotencyOf(context, CreateAddressPoolRequestSchema, request, AddressPoolSchema) },
      );
    },
    getAddressPool: async (request) => toPool(await platform.get(poolKind, "", request.addressPool)),
    async listAddressPools(request) {
      const page = await platform.page(poolKind, { project: "", page: request.page, view: views.address_pool });
      return { addressPools: page.items.map(toPool), page: { nextPageToken: page.nextPageToken } };
    },
    deleteAddressPool(request, context) {
      return platform.transact(async (tx) => {
        const pool = await tx.get(poolKind, "", request.addressPool);
        await tx.guard(pool.id);
        const holder = (await poolHolders(platform.kv, outsidePool(pool), addressesMax)).find((held) =>
          held !== nobody
        );
        if (holder !== undefined) {
          throw fault(
            "failed_precondition",
            "address_pool_in_use",
            `Cannot delete address pool ${pool.name} as ${holder} has an address of it: wanted none`,
          );
        }
        await wakeAll(tx, outsidePool(pool));
        forget(tx, outsidePool(pool));
        tx.remove(poolKind, pool, { etag: request.etag });
        return {};
      }, {
        idempotency: idempotencyOf(context, DeleteAddressPoolRequestSchema, request, DeleteAddressPoolResponseSchema),
      });
    },
  }, {
    createAddressPool: { resource: "address_pool", action: "create", scope: cluster },
    getAddressPool: { resource: "address_pool", action: "get", scope: cluster },
    listAddressPools: { resource: "address_pool", action: "list", scope: cluster },
    deleteAddressPool: { resource: "address_pool", action: "delete", scope: cluster },
  });
}

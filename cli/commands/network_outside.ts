import { buildRouteMap } from "@stricli/core";
import {
  type AddressPool,
  AddressPoolSchema,
  AddressPoolService,
  type FloatingIp,
  FloatingIpSchema,
  FloatingIpService,
  type NatGateway,
  NatGatewaySchema,
  NatGatewayService,
} from "@ultracloud/proto/prismnet/v1";
import type { Column } from "../frame/columns.ts";
import { command } from "../frame/command.ts";
import { networkNames } from "./_network_names.ts";
import { metaColumns, pages } from "./_shared.ts";
import { named } from "./network.ts";
import { perhaps, wanted } from "./network_edge.ts";

const natColumns: readonly Column<NatGateway>[] = [
  ...metaColumns<NatGateway>(),
  { name: "ip", get: (g) => g.ipAddress },
  { name: "network", get: (g) => g.vpcId },
];
const ipColumns: readonly Column<FloatingIp>[] = [
  ...metaColumns<FloatingIp>(),
  { name: "ip", get: (f) => f.ipAddress },
  { name: "port", get: (f) => f.portId },
];
const poolColumns: readonly Column<AddressPool>[] = [
  ...metaColumns<AddressPool>(),
  { name: "cidr", get: (p) => p.cidr },
  { name: "range", get: (p) => `${p.firstIp} to ${p.lastIp}` },
  { name: "uplink", get: (p) => p.uplink },
];

export const nat = buildRouteMap({
  docs: { brief: "NAT gateways: the way out of a network" },
  routes: {
    list: command({
      brief: "List NAT gateways",
      async run({ session, list }) {
        const client = session.client(NatGatewayService, "prismnet");
        const { project } = session;
        const all = await pages((page) => client.listNatGateways({ project, page }), (r) => r.natGateways);
        await list(NatGatewaySchema, all, natColumns);
      },
    }),
    create: command<{ network: string; pool: string }, [string]>({
      brief: "Let a network out under an address of a pool",
      args: named("NAT gateway", "gateway"),
      flags: { network: wanted("Network, name or id"), pool: wanted("Address pool, name or id") },
      async run({ session, one }, { network: vpc, pool: addressPool }, name) {
        const client = session.client(NatGatewayService, "prismnet");
        const request = { project: session.project, name, vpc, addressPool };
        await one(NatGatewaySchema, await client.createNatGateway(request), natColumns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show a NAT gateway",
      complete: networkNames.gateway,
      args: named("NAT gateway", "gateway"),
      async run({ session, one }, _flags, natGateway) {
        const client = session.client(NatGatewayService, "prismnet");
        await one(NatGatewaySchema, await client.getNatGateway({ project: session.project, natGateway }), natColumns);
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete a NAT gateway that no floating IP comes in through",
      complete: networkNames.gateway,
      args: named("NAT gateway", "gateway"),
      async run({ session, confirm, io }, _flags, natGateway) {
        confirm(`Delete the NAT gateway ${natGateway}?`);
        await session.client(NatGatewayService, "prismnet").deleteNatGateway({ project: session.project, natGateway });
        io.err(`Deleted NAT gateway ${natGateway}\n`);
      },
    }),
  },
});

export const ip = buildRouteMap({
  docs: { brief: "Floating IPs and the pools they come from" },
  routes: {
    list: command({
      brief: "List floating IPs",
      async run({ session, list }) {
        const client = session.client(FloatingIpService, "prismnet");
        const { project } = session;
        const all = await pages((page) => client.listFloatingIps({ project, page }), (r) => r.floatingIps);
        await list(FloatingIpSchema, all, ipColumns);
      },
    }),
    create: command<{ pool: string; address?: string }, [string]>({
      brief: "Reserve a floating IP",
      args: named("Floating IP", "ip"),
      flags: { pool: wanted("Address pool, name or id"), address: perhaps("Address; the next free one unless given") },
      async run({ session, one }, { pool, address = "" }, name) {
        const client = session.client(FloatingIpService, "prismnet");
        const request = { project: session.project, name, addressPool: pool, ipAddress: address };
        await one(FloatingIpSchema, await client.createFloatingIp(request), ipColumns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show a floating IP",
      complete: networkNames.ip,
      args: named("Floating ip", "ip"),
      async run({ session, one }, _flags, floatingIp) {
        const client = session.client(FloatingIpService, "prismnet");
        await one(FloatingIpSchema, await client.getFloatingIp({ project: session.project, floatingIp }), ipColumns);
      },
    }),
    attach: command<{ port: string }, [string]>({
      brief: "Lead a floating IP to a port",
      complete: networkNames.ip,
      args: named("Floating IP", "ip"),
      flags: { port: wanted("Port, name or id") },
      async run({ session, one }, { port }, floatingIp) {
        const client = session.client(FloatingIpService, "prismnet");
        const request = { project: session.project, floatingIp, port };
        await one(FloatingIpSchema, await client.attachFloatingIp(request), ipColumns);
      },
    }),
    detach: command<Record<never, never>, [string]>({
      brief: "Keep a floating IP without leading it anywhere",
      complete: networkNames.ip,
      args: named("Floating IP", "ip"),
      async run({ session, one }, _flags, floatingIp) {
        const client = session.client(FloatingIpService, "prismnet");
        const request = { project: session.project, floatingIp, port: "" };
        await one(FloatingIpSchema, await client.attachFloatingIp(request), ipColumns);
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Give a detached floating IP back",
      complete: networkNames.ip,
      args: named("Floating IP", "ip"),
      async run({ session, confirm, io }, _flags, floatingIp) {
        confirm(`Delete the floating IP ${floatingIp}?`);
        await session.client(FloatingIpService, "prismnet").deleteFloatingIp({ project: session.project, floatingIp });
        io.err(`Deleted floating IP ${floatingIp}\n`);
      },
    }),
    pools: command({
      brief: "List address pools",
      async run({ session, list }) {
        const client = session.client(AddressPoolService, "prismnet");
        await list(
          AddressPoolSchema,
          await pages((page) => client.listAddressPools({ page }), (r) => r.addressPools),
          poolColumns,
        );
      },
    }),
    "show-pool": command<Record<never, never>, [string]>({
      brief: "Show an address pool",
      complete: networkNames.pool,
      args: named("Address pool", "pool"),
      async run({ session, one }, _flags, addressPool) {
        const client = session.client(AddressPoolService, "prismnet");
        await one(AddressPoolSchema, await client.getAddressPool({ addressPool }), poolColumns);
      },
    }),
    "delete-pool": command<Record<never, never>, [string]>({
      brief: "Delete an address pool that nothing uses",
      complete: networkNames.pool,
      args: named("Address pool", "pool"),
      async run({ session, confirm, io }, _flags, addressPool) {
        confirm(`Delete the address pool ${addressPool}?`);
        await session.client(AddressPoolService, "prismnet").deleteAddressPool({ addressPool });
        io.err(`Deleted address pool ${addressPool}\n`);
      },
    }),
    "create-pool": command<{ cidr: string; uplink: string; gateway?: string; first?: string; last?: string }, [string]>(
      {
        brief: "Make the addresses of a network outside available",
        args: named("Address pool", "pool"),
        flags: {
          cidr: wanted("Network outside, for example 203.0.113.0/24"),
          uplink: wanted("Uplink of the hosts that reach it"),
          gateway: perhaps("Router of that network"),
          first: perhaps("First address to hand out"),
          last: perhaps("Last address to hand out"),
        },
        async run({ session, one }, { cidr, uplink, gateway = "", first = "", last = "" }, name) {
          const client = session.client(AddressPoolService, "prismnet");
          const request = { name, cidr, uplink, gatewayIp: gateway, firstIp: first, lastIp: last };
          await one(AddressPoolSchema, await client.createAddressPool(request), poolColumns);
        },
      },
    ),
  },
});

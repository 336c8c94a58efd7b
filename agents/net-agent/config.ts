import { baseShape } from "@ultracloud/config";
import { z } from "zod";

const device = z.string().regex(/^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$/);
const listener = z.string().regex(/^[^:]+:\d{1,5}$/);
const name = z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/);

export const configSchema = z.strictObject({
  ...baseShape,
  peers: z.strictObject({
    prismnet: z.array(z.url()).min(1).describe("Where the ports of this host are asked for"),
  }),
  nodeName: name.default("local").describe("Name of this host; the same as its vm-agent's"),
  agentUrl: z.url().optional().describe("Where prismnet reaches this agent; by default http:// and rpc.listen"),
  central: z.boolean().default(true).describe("Holds the northbound and southbound databases"),
  southboundListen: listener.optional().describe("Address and port for the net-agents of other hosts, by TLS"),
  northboundListen: listener.optional().describe("Address and port for prismnet on another host, by TLS"),
  southbound: z.string().regex(/^(unix:\/.+|ssl:[^:]+:\d{1,5})$/).optional().describe(
    "Southbound database of the central host: ssl:address:port",
  ),
  bridgePrefix: z.string().regex(/^[a-z][a-z0-9]{0,9}$/).default("uc").describe("Begin of the names of bridges"),
  encapIp: z.ipv4().default("127.0.0.1").describe("Address of this host that tunnels reach"),
  encapAddress: z.cidrv4().optional().describe("The same with its prefix length, put on the tunnel bridge"),
  tunnelDevice: device.optional().describe("Device that tunnels leave by; it moves into the tunnel bridge"),
  uplinks: z.array(z.strictObject({
    name: name.describe("What address pools call it"),
    device: device.optional().describe("Device that leads outside; without one the host itself is outside"),
    address: z.cidrv4().optional().describe("Address of the host in that network"),
  })).max(16).default([]),
}).refine((c) => c.central || c.southbound !== undefined, {
  path: ["southbound"],
  error: "is needed on a host that is not central",
}).refine((c) => c.rpc.tls !== undefined || [c.southboundListen, c.northboundListen].every((l) => l === undefined), {
  path: ["rpc", "tls"],
  error: "is needed to offer databases to other hosts",
}).refine((c) => c.rpc.tls !== undefined || !c.southbound?.startsWith("ssl:"), {
  path: ["rpc", "tls"],
  error: "is needed to reach the southbound database of another host",
}).refine((c) => c.tunnelDevice === undefined || c.encapAddress !== undefined, {
  path: ["encapAddress"],
  error: "is needed with tunnelDevice",
});

export type NetAgentConfig = z.infer<typeof configSchema>;

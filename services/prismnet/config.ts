import { baseShape } from "@ultracloud/config";
import { z } from "zod";
import { addressGraceMsDefault } from "./resting.ts";

const endpoints = z.array(z.url()).min(1);

export const configSchema = z.strictObject({
  ...baseShape,
  peers: z.strictObject({
    flaredb: endpoints.describe("Where records live"),
    chainfire: endpoints.describe("Where replicas agree on who reconciles"),
    iam: endpoints.describe("Where policy comes from"),
    "net-agent": endpoints.optional().describe("Not read: hosts are asked at the address they report"),
  }),
  engine: z.enum(["user", "ovn"]).default("user").describe("What carries tenant traffic"),
  northbound: z.string().default("").describe(
    "OVN's northbound database, unix:/path or tcp:host:port; empty: net-agent's on this host",
  ),
  addressGraceMs: z.number().int().min(0).max(86_400_000).default(addressGraceMsDefault).describe(
    "An address that was given back is not handed out again for this long",
  ),
  // Below Linux's default ephemeral range (32768), so that no outgoing connection of the host sits on a forward.
  hostPortMin: z.number().int().min(1024).max(65535).default(20000).describe("First host port for forwards"),
  hostPortMax: z.number().int().min(1024).max(65535).default(29999).describe("Last host port for forwards"),
}).refine((c) => c.hostPortMin <= c.hostPortMax, { path: ["hostPortMax"], error: "must not be below hostPortMin" });

export type PrismnetConfig = z.infer<typeof configSchema>;

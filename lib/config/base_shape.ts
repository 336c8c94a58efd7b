import { z } from "zod";

/** Files of a TLS listener or client; renewed in place, read again when they change. */
export const tlsFilesSchema: z.ZodObject<
  { certFile: z.ZodString; keyFile: z.ZodString; caFile: z.ZodString },
  z.core.$strict
> = z
  .strictObject({
    certFile: z.string().min(1).describe("PEM file with the certificate chain of this instance"),
    keyFile: z.string().min(1).describe("PEM file with its private key"),
    caFile: z.string().min(1).describe("PEM file with the CAs that peers must be signed by"),
  });
export type TlsFiles = z.infer<typeof tlsFilesSchema>;

const count = (most: number) => z.number().int().min(1).max(most).exactOptional();

/** Bounds of a listener; what is left out stays as lib/rpc has it, or the component where it needs more. */
const limitsSchema = z.strictObject({
  messageBytesMax: z.number().int().min(65_536).max(268_435_456).exactOptional().describe(
    "Bytes of one request message",
  ),
  inFlightMax: count(65_536).describe("Unary calls under way; further ones are refused"),
  streamsMax: count(65_536).describe("Streams open at once"),
  callerCallsMax: count(65_536).describe("Unary calls under way of one user or service account"),
  callerStreamsMax: count(65_536).describe("Streams open of one user or service account"),
  timeoutMsMax: z.number().int().min(1_000).max(3_600_000).exactOptional().describe(
    "Longest deadline that a caller gets",
  ),
  origins: z.array(z.string().regex(/^https?:\/\/[^/]+$/)).max(64).exactOptional().describe(
    "Origins of browser pages that may call, as https://console.example; loopback ones always may on loopback",
  ),
});

/** What every component's configuration has; spread it into `z.strictObject({ ...baseShape, ... })`. */
export const baseShape = {
  clusterId: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/).describe(
    "Name of the cluster; the trust domain of its SPIFFE ids",
  ),
  instance: z.string().min(1).default("0").describe("Which of several instances of the component this is"),
  rpc: z.strictObject({
    listen: z.string().min(1).describe("host:port or unix:/path; only loopback or unix without tls"),
    tls: tlsFilesSchema.optional(),
    limits: limitsSchema.exactOptional(),
  }),
  stateDir: z.string().min(1).describe("Directory for what must survive a restart"),
  runDir: z.string().min(1).describe("Directory for sockets and pid files"),
  identityKeyFile: z.string().min(1).describe("Private JWK the component signs its workload tokens with"),
  trustFile: z.string().min(1).describe("Public keys and grants of the system principals"),
  log: z.strictObject({
    level: z.enum(["debug", "info", "warn", "error"]).default("info"),
    format: z.enum(["json", "pretty"]).default("json"),
  }).default({ level: "info", format: "json" }),
};

const baseSchema = z.strictObject(baseShape);
/** What `baseShape` yields. */
export type BaseConfig = z.infer<typeof baseSchema>;

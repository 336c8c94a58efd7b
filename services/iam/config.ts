import { baseShape } from "@ultracloud/config";
import { z } from "zod";

export const configSchema = z.strictObject({
  ...baseShape,
  peers: z.strictObject({
    flaredb: z.array(z.url()).min(1).describe("Where records live"),
  }),
  mode: z.enum(["dev", "production"]).default("production").describe(
    "production refuses to start without explicit secrets; dev makes the missing ones in its state directory",
  ),
  issuer: z.url().default("http://127.0.0.1:7120").describe("`iss` of user tokens, and where discovery answers"),
  adminTokenFile: z.string().min(1).optional().describe("Token that gets the first administrator in"),
  signingKeyFile: z.string().min(1).optional().describe("Private Ed25519 JWK that seeds an empty keyring"),
  masterKeyFile: z.string().min(1).optional().describe(
    "32 bytes in base64 or hex that seal stored secrets; IAM_CRED_MASTER_KEY and IAM_CRED_MASTER_KEY_FILE come first",
  ),
  masterKeyNextFile: z.string().min(1).optional().describe(
    "Where the next master key is put to change it while all goes on; master.next.key of the state directory by default",
  ),
  authorityCertFile: z.string().min(1).optional().describe(
    "Certificate of the authority that the cluster's first certificates are of; becomes iam's first one",
  ),
  authorityKeyFile: z.string().min(1).optional().describe("Its private key; seeds an empty list of authorities only"),
  keysMaxAgeMs: z.number().int().min(1_000).max(86_400_000).default(300_000).describe(
    "How long others may keep the published signing keys; a new one signs after it",
  ),
  authorityPublishMs: z.number().int().min(1_000).default(3_600_000).describe(
    "How long a new certificate authority is known before it signs",
  ),
  certificateTtlMsMax: z.number().int().min(5_000).max(2_592_000_000).default(86_400_000).describe(
    "Longest life of a certificate; an old authority is trusted as long after its last",
  ),
  // Short, as a service without policy cannot refuse a revoked one.
  accessTtlMs: z.number().int().min(5_000).max(3_600_000).default(900_000).describe("Life of an access token"),
  loginTtlMs: z.number().int().min(60_000).max(2_592_000_000).default(604_800_000).describe(
    "Life of a login, however often it is refreshed",
  ),
});

export type IamConfig = z.infer<typeof configSchema>;

import { fault } from "@ultracloud/base";
import { installPlanSchema, type MachineFacts, type MarkerLine, trustedKeySchema } from "@ultracloud/cluster-state";
import { createHash } from "node:crypto";
import { z } from "zod";

const callTimeoutMs = 30_000;
const bundleTimeoutMs = 10 * 60_000;
const answerBytesMax = 2 ** 20;
/** What the deployer takes as a bundle. */
const bundleBytesMax = 16 * 2 ** 20;

const httpOrNone = z.union([z.literal(""), z.url({ protocol: /^https?$/ })]);
const enrolledSchema = z.object({
  status: z.literal("enrolled"),
  node: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/),
  hostname: z.string().max(63),
  role: z.string(),
  class: z.string(),
  address: z.string(),
  cluster_id: z.string(),
  install_plan: installPlanSchema.optional(),
  install_refused: z.object({ code: z.string().regex(/^[a-z_]{1,64}$/), message: z.string().max(2048) }).optional(),
  bundle: z.object({
    sha256: z.string().regex(/^[0-9a-f]{64}$/),
    bytesCount: z.number().int().min(1).max(bundleBytesMax),
    signature: z.string().max(256),
    path: z.string().regex(/^\/[A-Za-z0-9/._-]{1,200}$/),
    signed_text: z.string().max(256),
  }).optional(),
  bundle_public_key: z.string().max(256),
  cache: z.object({ binary_cache_url: httpOrNone, trusted_keys: z.array(trustedKeySchema).max(16) }),
  ca_sha256: z.string().optional(),
});
const pendingSchema = z.object({ status: z.literal("pending"), machine: z.string().max(256), reason: z.string() });
const answerSchema = z.discriminatedUnion("status", [enrolledSchema, pendingSchema]);
const identitySchema = z.object({
  node: z.string(),
  cluster_id: z.string().min(1).max(63),
  trust: z.record(z.string(), z.unknown()),
  peers: z.object({ deployer: z.array(z.url()).min(1), chainfire: z.array(z.url()).min(1) }),
});
const certificateSchema = z.object({
  node: z.string(),
  certificate_pem: z.string().max(64 * 1024),
  authorities_pem: z.string().max(256 * 1024),
});

export type EnrolledAnswer = z.infer<typeof enrolledSchema>;
export type PhoneHomeAnswer = z.infer<typeof answerSchema>;
export type BundleRef = NonNullable<EnrolledAnswer["bundle"]>;
export type IdentityAnswer = z.infer<typeof identitySchema>;
export type CertificateAnswer = z.infer<typeof certificateSchema>;
/** Public half of an Ed25519 key. */
export interface PublicKey {
  readonly kty: string;
  readonly crv: string;
  readonly x: string;
}

export interface DeployerOptions {
  readonly url: string;
  readonly token: string | undefined;
  /** Authority that the deployer's certificate is from; undefined: one of the system's. */
  readonly caPem: string | undefined;
}

/** The bootstrap listener of the deployer as a machine sees it. Every answer is checked before it is used. */
export class BootstrapDeployer implements Disposable {
  readonly #o: DeployerOptions;
  readonly #client: Deno.HttpClient;

  constructor(options: DeployerOptions) {
    this.#o = options;
    this.#client = Deno.createHttpClient(options.caPem === undefined ? {} : { caCerts: [options.caPem] });
  }

  async phoneHome(
    body: { readonly node_id: string; readonly hostname: string; readonly facts: MachineFacts },
    signal?: AbortSignal,
  ): Promise<PhoneHomeAnswer> {
    const text = await this.#call("POST", "/api/v1/phone-home", { body: JSON.stringify(body) }, signal);
    return parse(answerSchema, text, "phone-home");
  }

  async marker({ name, node, detail }: MarkerLine, signal?: AbortSignal): Promise<void> {
    await this.#call("POST", "/api/v1/marker", { body: JSON.stringify({ node, name, detail }) }, signal);
  }

  /** The bundle, whole and signed by the key, or a fault and nothing. */
  async bundle(node: string, ref: BundleRef, publicKey: string, signal?: AbortSignal): Promise<Uint8Array> {
    const response = await this.#send("GET", ref.path, { headers: { "x-ultracloud-node": node } }, signal, {
      timeoutMs: bundleTimeoutMs,
    });
    const content = await bytesOf(response, ref.bytesCount);
    const digest = createHash("sha256").update(content).digest("hex");
    if (digest !== ref.sha256) {
      throw fault(
        "data_loss",
        "bundle_damaged",
        `Cannot use the bundle: its SHA-256 is ${digest} over ${content.length} bytes, wanted ${ref.sha256}`,
      );
    }
    await verifyBundle(ref, publicKey);
    return content;
  }

  /** Brings the public keys that the node's agents have made; the trust file of the cluster comes back. */
  async identity(
    node: string,
    identities: Readonly<Record<string, PublicKey>>,
    signal?: AbortSignal,
  ): Promise<IdentityAnswer> {
    const body = JSON.stringify({ node, identities });
    return parse(identitySchema, await this.#call("POST", "/api/v1/identity", { body }, signal), "identity");
  }

  /** Has the request for a certificate passed on to iam; `authorization` is a token that the agent itself has signed. */
  async certificate(
    node: string,
    o: { readonly csrPem: string; readonly authorization: string },
    signal?: AbortSignal,
  ): Promise<CertificateAnswer> {
    const body = JSON.stringify({ node, csr_pem: o.csrPem, authorization: o.authorization });
    return parse(certificateSchema, await this.#call("POST", "/api/v1/certificate", { body }, signal), "certificate");
  }

  async #call(method: string, path: string, init: RequestInit, signal?: AbortSignal): Promise<string> {
    const response = await this.#send(method, path, init, signal, { timeoutMs: callTimeoutMs });
    return new TextDecoder().decode(await bytesOf(response, answerBytesMax));
  }

  async #send(
    method: string,
    path: string,
    init: RequestInit,
    signal: AbortSignal | undefined,
    o: { readonly timeoutMs: number },
  ): Promise<Response> {
    const { url, token } = this.#o;
    const late = AbortSignal.timeout(o.timeoutMs);
    let response: Response;
    try {
      response = await fetch(new URL(path, url), {
        ...init,
        method,
        client: this.#client,
        redirect: "error",
        signal: signal === undefined ? late : AbortSignal.any([late, signal]),
        headers: { ...init.headers, ...(token === undefined ? {} : { authorization: `Bearer ${token}` }) },
      });
    } catch (cause) {
      signal?.throwIfAborted();
      const why = cause instanceof Error ? cause.message : String(cause);
      throw fault("unavailable", "deployer_unreachable", `Cannot reach the deployer at ${url}: ${why}`, { cause });
    }
    if (response.ok) return response;
    const text = new TextDecoder().decode(await bytesOf(response, answerBytesMax));
    const told = z.object({ code: z.string().regex(/^[a-z_]{1,64}$/), message: z.string().max(2048) }).safeParse(
      json(text),
    );
    const { code, message } = told.success
      ? told.data
      : { code: "deployer_failed", message: `The deployer answers ${method} ${path} with ${response.status}` };
    const refused = response.status === 401 || response.status === 403;
    throw fault(refused ? "permission_denied" : "unavailable", code, message);
  }

  [Symbol.dispose](): void {
    this.#client.close();
  }
}

/** Refuses a bundle that the key of the deployer did not sign. */
export async function verifyBundle(ref: BundleRef, publicKey: string): Promise<void> {
  const refuse = (why: string, cause?: unknown) =>
    fault("permission_denied", "bundle_untrusted", `Cannot trust the bundle ${ref.sha256}: ${why}`, { cause });
  // The text is what the signature is over: it must be about this very content.
  if (ref.signed_text !== `ultracloud-bundle:${ref.sha256}`) throw refuse("what was signed is not about it");
  let valid: boolean;
  try {
    const key = await crypto.subtle.importKey("raw", Uint8Array.fromBase64(publicKey), "Ed25519", false, ["verify"]);
    const signature = Uint8Array.fromBase64(ref.signature);
    valid = await crypto.subtle.verify("Ed25519", key, signature, new TextEncoder().encode(ref.signed_text));
  } catch (cause) {
    throw refuse("its key or its signature cannot be read", cause);
  }
  if (!valid) throw refuse("its signature is not by the deployer's key");
}

async function bytesOf(response: Response, bytesMax: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of response.body ?? []) {
    size += chunk.length;
    if (size > bytesMax) {
      throw fault("resource_exhausted", "answer_too_large", `Cannot read more than ${bytesMax} bytes of an answer`);
    }
    chunks.push(chunk);
  }
  return new Uint8Array(await new Blob(chunks as BlobPart[]).arrayBuffer());
}

function json(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function parse<T>(schema: z.ZodType<T>, text: string, what: string): T {
  const parsed = schema.safeParse(json(text));
  if (parsed.success) return parsed.data;
  throw fault(
    "invalid_argument",
    "answer_invalid",
    `Cannot use what the deployer answers to ${what}: ${z.prettifyError(parsed.error).replaceAll("\n", " ")}`,
  );
}

import { fault } from "@ultracloud/base";
import { z } from "zod";

/** Components `uc` talks to and their default ports. */
export const defaultPorts = {
  chainfire: 7100,
  flaredb: 7110,
  iam: 7120,
  prismnet: 7130,
  plasmavmc: 7140,
  "vm-agent": 7141,
  deployer: 7150,
  "fleet-scheduler": 7160,
} as const;
export type ComponentName = keyof typeof defaultPorts;

const contextSchema = z.strictObject({
  clusterId: z.string().optional(),
  /** Overrides by component; the others are the endpoint's host with the default port. */
  endpoint: z.string().default("http://127.0.0.1"),
  endpoints: z.record(z.string(), z.string()).default({}),
  project: z.string().optional(),
  /** Private key of the operator principal, for the stores; a path. */
  operatorKeyFile: z.string().optional(),
  /** Certificate, key and authorities where the cluster speaks mutual TLS. */
  tls: z.strictObject({ certFile: z.string(), keyFile: z.string(), caFile: z.string() }).optional(),
  /** Data directory of the quickstart that wrote the context. */
  quickstartDir: z.string().optional(),
});
const credentialsSchema = z.strictObject({
  accessToken: z.string(),
  refreshToken: z.string().optional(),
  expiresAtMs: z.number(),
});
const fileSchema = z.strictObject({
  version: z.literal(1),
  current: z.string().optional(),
  contexts: z.record(z.string(), contextSchema),
  credentials: z.record(z.string(), credentialsSchema).default({}),
  /** By context: what tells the cluster that a password login comes from here. */
  devices: z.record(z.string(), z.string()).optional(),
});

export type Context = z.infer<typeof contextSchema>;
export type Credentials = z.infer<typeof credentialsSchema>;
export type ContextFile = z.infer<typeof fileSchema>;

/** Work root of the checkout this program runs from; a compiled program belongs to none. */
const ownWorkRoot = Deno.build.standalone ? undefined : new URL("../../work", import.meta.url).pathname;

/**
 * Where contexts live: `$UC_CONFIG`, else the kept quickstart of the checkout this program runs from (or of
 * `$ULTRACLOUD_WORK_ROOT`), else `$XDG_CONFIG_HOME/ultracloud/contexts.json`. Never a file of the current folder: a
 * stranger's folder must not say where a login goes.
 */
export function contextPath(env: (name: string) => string | undefined): string {
  const explicit = env("UC_CONFIG");
  if (explicit) return explicit;
  const workRoot = env("ULTRACLOUD_WORK_ROOT") ?? ownWorkRoot;
  const quickstart = `${workRoot}/quickstart/data/uc.json`;
  if (workRoot !== undefined && env("UC_CONTEXT") === undefined && isFile(quickstart)) return quickstart;
  const base = env("XDG_CONFIG_HOME") ?? `${env("HOME") ?? "/root"}/.config`;
  return `${base}/ultracloud/contexts.json`;
}

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

export function readContexts(path: string): ContextFile {
  let text: string;
  try {
    text = Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return { version: 1, contexts: {}, credentials: {} };
    throw fault(
      "failed_precondition",
      "contexts_unreadable",
      `Cannot read ${path}: ${error instanceof Error ? error.message : error}`,
      { cause: error },
    );
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw fault(
      "failed_precondition",
      "contexts_unreadable",
      `Cannot read ${path} as JSON: move it away and log in again`,
      { cause },
    );
  }
  const parsed = fileSchema.safeParse(json);
  if (!parsed.success) {
    throw fault("failed_precondition", "contexts_unreadable", `Cannot use ${path}: ${z.prettifyError(parsed.error)}`);
  }
  return parsed.data;
}

function makeDirOf(path: string): void {
  const slash = path.lastIndexOf("/");
  if (slash > 0) Deno.mkdirSync(path.slice(0, slash), { recursive: true, mode: 0o700 });
}

const lockOptions = { create: true, write: true, mode: 0o600 } as const;

/** Holds the file against every other process until disposed; a process that dies gives it back. */
export function lockFileSync(path: string): Disposable {
  makeDirOf(path);
  const file = Deno.openSync(path, lockOptions);
  file.lockSync(true);
  return file;
}

/** The same while others of this process go on. */
export async function lockFile(path: string): Promise<Disposable> {
  makeDirOf(path);
  const file = await Deno.open(path, lockOptions);
  await file.lock(true);
  return file;
}

/** Replaces the file in one step; readable by its owner only, as it holds tokens. */
export function writeContexts(path: string, file: ContextFile): void {
  makeDirOf(path);
  const next = `${path}.${Deno.pid}.new`;
  Deno.writeTextFileSync(next, JSON.stringify(file, null, 2) + "\n", { mode: 0o600 });
  Deno.renameSync(next, path);
}

/** The context to use and its name: flag, then `UC_CONTEXT`, then the current one, then plain defaults. */
export function chooseContext(
  file: ContextFile,
  options: { flag?: string | undefined; env: (name: string) => string | undefined },
): { name: string; context: Context } {
  const wanted = options.flag ?? options.env("UC_CONTEXT") ?? file.current;
  if (wanted === undefined) return { name: "default", context: withEnv(contextSchema.parse({}), options.env) };
  const context = Object.hasOwn(file.contexts, wanted) ? file.contexts[wanted] : undefined;
  if (!context) {
    const known = Object.keys(file.contexts).join(", ") || "none";
    throw fault("not_found", "context_not_found", `Cannot find the context ${wanted}: known are ${known}`);
  }
  return { name: wanted, context: withEnv(context, options.env) };
}

function withEnv(context: Context, env: (name: string) => string | undefined): Context {
  const endpoint = env("UC_ENDPOINT");
  const project = env("UC_PROJECT");
  return { ...context, ...(endpoint ? { endpoint, endpoints: {} } : {}), ...(project ? { project } : {}) };
}

/** Base URL of a component in this context. */
export function endpointOf(context: Context, component: ComponentName): string {
  const own = context.endpoints[component];
  if (own) return own;
  if (!URL.canParse(context.endpoint)) {
    throw fault(
      "invalid_argument",
      "invalid_endpoint",
      `Cannot use ${JSON.stringify(context.endpoint)} as an endpoint: wanted http://host or https://host`,
    );
  }
  const url = new URL(context.endpoint);
  if (url.port === "") url.port = String(defaultPorts[component]);
  return url.toString().replace(/\/$/, "");
}

import { z } from "zod";
import { fault } from "./fault.ts";

/** Text with `${variable}` holes, filled by `resolveText` before start. */
const template = z.string().min(1);

const listenerSchema = z.strictObject({
  port: z.number().int().min(1).max(65535).describe("Default port (docs: DECISIONS ports)"),
  scheme: z.enum(["connect", "connect+mtls", "http", "dns", "ovsdb"]).describe("What is spoken on it"),
});

/**
 * Schema of `component.json`, the one place where a component says what it listens on, whom it calls, which
 * directories it owns and which programs it starts.
 *
 * Variables in paths: `${dir.config}`, `${dir.state}`, `${dir.run}`, `${dir.etc}` and `${dir.runs}` (where the
 * configuration and run directories of this host's components lie side by side), `${file.trust}`.
 */
export const componentSchema = z.strictObject({
  $schema: z.string().optional(),
  name: z.string().regex(/^[a-z][a-z0-9-]{1,30}$/).describe("Folder, unit and binary name"),
  kind: z.enum(["service", "agent", "tool"]),
  summary: z.string().min(10).max(120),
  entry: z.string().default("main.ts"),
  listen: z.record(z.string(), listenerSchema).default({}).describe("Listeners by name; `rpc` is the client listener"),
  calls: z.array(z.string().regex(/^[a-z0-9-]+\.[a-z]+$/)).default([]).describe("Callees as <component>.<listener>"),
  read: z.array(template).default([]).describe("Read-only paths beyond its config directory and the trust file"),
  write: z.array(template).default([]).describe("Writable paths beyond its state and run directories"),
  sockets: z.array(template).default([]).describe("Unix sockets it connects to; {00..NN} expands"),
  netExtra: z.array(template).default([]).describe("Further network grants, host:port"),
  env: z.array(z.string()).default([]).describe("Environment variables beyond its own UC_<NAME>_*"),
  run: z.array(z.string().regex(/^(\$\{dir\.config\}\/)?[A-Za-z0-9._+-]+$/)).default([]).describe(
    "Programs it may start; never a shell or deno. One in ${dir.config} was put there with the component",
  ),
  sys: z.array(
    z.enum([
      "hostname",
      "cpus",
      "osRelease",
      "systemMemoryInfo",
      "uid",
      "networkInterfaces",
      "loadavg",
      "statfs",
      "osUptime",
    ]),
  )
    .default([]),
  v8: z.array(z.string()).default([]).describe("V8 flags, for example --max-old-space-size=512"),
});

export type ComponentManifest = z.infer<typeof componentSchema>;

/** Where one instance of a component lives and whom it reaches: everything variable about a manifest. */
export interface Placement {
  /** Directory with config.toml, identity.key and other things only this instance reads. */
  readonly configDir: string;
  readonly stateDir: string;
  /** Short-lived sockets and pid files; short, as a unix socket path has at most 107 bytes. */
  readonly runDir: string;
  readonly trustFile: string;
  /** Where the service manager puts the secrets it hands to this instance alone; without one they lie in configDir. */
  readonly credentialsDir?: string;
  /** Address each listener binds, by listener name: `127.0.0.1:7100`. */
  readonly listen: Readonly<Record<string, string>>;
  /** Addresses each callee answers at, by `<component>.<listener>`: literal host:port, or CIDR:port grants. */
  readonly callees: Readonly<Record<string, readonly string[]>>;
}

const forbiddenPrograms = new Set([
  "deno",
  "sh",
  "bash",
  "dash",
  "zsh",
  "env",
  "sudo",
  "node",
  "python3",
  "perl",
  "busybox",
]);

/** The manifest in `text`, checked; `source` names the file in errors. */
export function parseManifest(text: string, source: string): ComponentManifest {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw fault("invalid_argument", "manifest_invalid", `Cannot read ${source} as JSON`, { cause });
  }
  const result = componentSchema.safeParse(json);
  if (!result.success) {
    throw fault("invalid_argument", "manifest_invalid", `Cannot use ${source}: ${z.prettifyError(result.error)}`);
  }
  for (const program of result.data.run) {
    if (forbiddenPrograms.has(program)) {
      throw fault(
        "invalid_argument",
        "manifest_invalid",
        `Cannot grant ${program} in ${source}: a shell or interpreter grants everything`,
      );
    }
  }
  return result.data;
}

/** Fills `${dir.state}` and the like; an unknown variable is an error. */
export function resolveText(text: string, placement: Placement): string {
  const values: Record<string, string> = {
    "dir.config": placement.configDir,
    "dir.etc": placement.configDir.slice(0, placement.configDir.lastIndexOf("/")),
    "dir.state": placement.stateDir,
    "dir.run": placement.runDir,
    "dir.runs": placement.runDir.slice(0, placement.runDir.lastIndexOf("/")),
    "file.trust": placement.trustFile,
  };
  return text.replace(/\$\{([^}]+)\}/g, (_, name: string) => {
    const value = values[name];
    if (value === undefined) {
      throw fault(
        "invalid_argument",
        "manifest_invalid",
        `Cannot resolve \${${name}}: wanted one of ${Object.keys(values).join(", ")}`,
      );
    }
    return value;
  });
}

/** `a-{00..03}` becomes a-00, a-01, a-02, a-03; text without braces stays alone. */
export function expandRange(text: string): string[] {
  const match = /^(.*)\{(\d+)\.\.(\d+)\}(.*)$/.exec(text);
  if (!match) return [text];
  const [, head, from, to, tail] = match as unknown as [string, string, string, string, string];
  const out: string[] = [];
  for (let i = Number(from); i <= Number(to); i++) out.push(`${head}${String(i).padStart(from.length, "0")}${tail}`);
  return out;
}

/** `UC_VM_AGENT_` for `vm-agent`. */
export function envPrefix(name: string): string {
  return `UC_${name.toUpperCase().replaceAll("-", "_")}_`;
}

/** The Deno flags that grant exactly what the manifest asks for at this placement, in a fixed order. */
export function permissionsOf(manifest: ComponentManifest, placement: Placement): string[] {
  const net = new Set<string>();
  for (const name of Object.keys(manifest.listen)) {
    const address = placement.listen[name];
    if (address === undefined) {
      throw fault(
        "invalid_argument",
        "placement_incomplete",
        `Cannot place ${manifest.name}: listener ${name} has no address`,
      );
    }
    net.add(address);
  }
  for (const callee of manifest.calls) {
    const addresses = placement.callees[callee];
    if (addresses === undefined) {
      throw fault(
        "invalid_argument",
        "placement_incomplete",
        `Cannot place ${manifest.name}: callee ${callee} has no address`,
      );
    }
    for (const address of addresses) net.add(address);
  }
  const sockets = manifest.sockets.flatMap(expandRange).map((path) => resolveText(path, placement));
  for (const grant of manifest.netExtra) net.add(resolveText(grant, placement));
  for (const path of sockets) net.add(`unix:${path}`);
  const own = [placement.stateDir, placement.runDir];
  const write = [...own, ...manifest.write.map((path) => resolveText(path, placement))];
  const read = [
    placement.configDir,
    ...placement.credentialsDir === undefined ? [] : [placement.credentialsDir],
    placement.trustFile,
    ...write,
    ...manifest.read.map((path) => resolveText(path, placement)),
  ];
  const flags = ["--no-prompt", "--no-remote"];
  if (net.size > 0) flags.push(`--allow-net=${[...net].sort().join(",")}`);
  flags.push(`--allow-read=${[...new Set(read)].sort().join(",")}`);
  flags.push(`--allow-write=${[...new Set(write)].sort().join(",")}`);
  flags.push(`--allow-env=${[`${envPrefix(manifest.name)}*`, ...manifest.env].sort().join(",")}`);
  if (manifest.run.length > 0) {
    flags.push(
      `--allow-run=${manifest.run.map((program) => resolveText(program, placement)).sort().join(",")}`,
    );
  }
  if (manifest.sys.length > 0) flags.push(`--allow-sys=${[...manifest.sys].sort().join(",")}`);
  if (manifest.v8.length > 0) flags.push(`--v8-flags=${manifest.v8.join(",")}`);
  return flags;
}
